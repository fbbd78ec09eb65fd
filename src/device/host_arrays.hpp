#pragma once

/// An update's arrays where hosts can address them, for what isn't a kernel (checkpoints, start
/// values): on a GPU a copy of the part that is asked for.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "device/device.hpp"
#include "device/storage.hpp"

namespace shardmix::device {

class HostArrays {
 public:
  /// The weights of elements [begin, begin + count), or a moment's state. What is queued for them
  /// must be done.
  HostArrays(Device& device, const UpdateArrays& arrays, std::int64_t begin, std::int64_t count,
             std::optional<Moment> moment);

  [[nodiscard]] const UpdateArrays& arrays() const noexcept { return arrays_; }
  /// The number in arrays() of the first element that was asked for.
  [[nodiscard]] std::int64_t begin() const noexcept { return begin_; }

  /// Brings what was changed to where it belongs.
  void store();

 private:
  struct Copied {
    std::byte* there;
    std::vector<std::byte> here;
  };
  /// Lets `array`, of `bytes` a block, point at a copy of some blocks.
  template <class T>
  void bring(T*& array, std::int64_t bytes, std::int64_t first_block, std::int64_t blocks);

  Device& device_;
  UpdateArrays arrays_;
  std::int64_t begin_;
  std::vector<Copied> copied_;
};

/// Most elements that are worth bringing at once.
inline constexpr std::int64_t most_brought = std::int64_t{1} << 18;

/// Calls visit(begin, count) for parts of [begin, begin + count), each `most_brought` long but for
/// the last.
template <class Visit>
void for_each_part(std::int64_t begin, std::int64_t count, const Visit& visit) {
  for (const std::int64_t end = begin + count; begin < end; begin += most_brought)
    visit(begin, std::min(most_brought, end - begin));
}

}  // namespace shardmix::device
