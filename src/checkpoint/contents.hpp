#pragma once

/// What a checkpoint's files hold: the manifest and all indices, without the values.

#include <filesystem>
#include <vector>

#include "checkpoint/shard_reader.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// A checkpoint whose manifest and indices are read and verified; the values aren't yet.
struct OpenCheckpoint {
  CheckpointInfo info = {};
  std::vector<ShardIndex> indices = {};  ///< of each file
};

/// Throws CheckpointError unless the indices hold each element of each parameter once.
void require_complete(const OpenCheckpoint& checkpoint);

/// A row of a file's index.
struct Piece {
  IndexRow row;
  std::size_t file = 0;
};

/// Where the elements of each of so many parameters are, in their order.
[[nodiscard]] std::vector<std::vector<Piece>> pieces_by_parameter(
    std::size_t parameters, const std::vector<ShardIndex>& indices);

/// Opens the checkpoint in `directory`, without other ranks. Throws CheckpointError.
[[nodiscard]] OpenCheckpoint open_alone(const std::filesystem::path& directory);

}  // namespace shardmix::checkpoint
