#pragma once

#include <cstdint>
#include <vector>

namespace shardmix::checkpoint {

/// A part of an array, by its first element and its extent in each dimension.
struct Box {
  std::vector<std::int64_t> start;
  std::vector<std::int64_t> count;

  [[nodiscard]] std::int64_t elements() const noexcept;
};

/// The boxes that the elements [begin, end) of an array, in row-major order, consist of, one behind
/// the other: at most 2 N - 1 in N dimensions.
[[nodiscard]] std::vector<Box> boxes_of(const std::vector<std::int64_t>& shape, std::int64_t begin,
                                        std::int64_t end);

}  // namespace shardmix::checkpoint
