#pragma once

#include <filesystem>

#include "checkpoint/shard_source.hpp"

namespace shardmix::checkpoint {

/// Bytes that a file will have, but for HDF5's own.
[[nodiscard]] std::int64_t expected_bytes(const ShardContents& contents) noexcept;

/// Writes a new file, hashing what it writes, and syncs it. Takes each value of the source once, in
/// the order of its arrays. Returns what the manifest is to say of it. Throws CheckpointError.
[[nodiscard]] CheckpointFile write_shard(const std::filesystem::path& path,
                                         const ShardSource& source);

}  // namespace shardmix::checkpoint
