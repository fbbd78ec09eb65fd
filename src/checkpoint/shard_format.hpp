#pragma once

/// A rank's file in a checkpoint.
///
///     /index            int64 [n, 4]  parameter, offset in it, offset here, count: which elements
///                       follow
///     /frozen/index     as /index, for /frozen/value (only where there are frozen parameters)
///     /state/<name>     fp32 [elements]  for master and each state that the rule keeps
///     /frozen/value     fp32 [elements]
///
/// `parameter` is a position in the manifest's list, offsets count elements. No padding, no
/// buckets: the file says nothing of the world size that wrote it. Both indices and all that is
/// HDF5's lie in the file's head, before the first value. The head has a checksum, and so has each
/// block of 64 MiB after it.

#include <cstdint>
#include <string>
#include <string_view>

#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

inline constexpr const char* index_name = "/index";
inline constexpr const char* frozen_index_name = "/frozen/index";
inline constexpr const char* frozen_value_name = "/frozen/value";
[[nodiscard]] inline std::string state_array_name(std::string_view state) {
  return "/state/" + std::string(state);
}

/// One row of an index.
struct IndexRow {
  std::int64_t parameter = 0;
  std::int64_t offset = 0;
  std::int64_t here = 0;
  std::int64_t count = 0;
};
static_assert(sizeof(IndexRow) == 32, "rows are read and written as they lie in memory");

inline constexpr std::int64_t block_bytes = std::int64_t{64} << 20;

/// Block 0 is the head. Blocks 1, 2, ... cut what follows.
[[nodiscard]] constexpr std::int64_t block_begin(const CheckpointFile& file,
                                                 std::int64_t block) noexcept {
  return block == 0 ? 0 : file.head_bytes + (block - 1) * block_bytes;
}
[[nodiscard]] constexpr std::int64_t block_end(const CheckpointFile& file,
                                               std::int64_t block) noexcept {
  const std::int64_t end = file.head_bytes + block * block_bytes;
  return end < file.bytes ? end : file.bytes;
}
/// The block of a byte beyond the head.
[[nodiscard]] constexpr std::int64_t block_of(const CheckpointFile& file,
                                              std::int64_t offset) noexcept {
  return 1 + (offset - file.head_bytes) / block_bytes;
}
[[nodiscard]] constexpr std::int64_t block_count(std::int64_t bytes,
                                                 std::int64_t head_bytes) noexcept {
  return 1 + (bytes - head_bytes + block_bytes - 1) / block_bytes;
}

/// Values pass through memory of this size.
inline constexpr std::int64_t chunk_bytes = std::int64_t{1} << 20;

}  // namespace shardmix::checkpoint
