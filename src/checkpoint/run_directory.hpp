#pragma once

/// A run's directory: its checkpoints by name, which of them are complete, and which to keep.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// "step_000012000".
[[nodiscard]] std::string checkpoint_name(std::int64_t step);

/// The complete checkpoints in a run's directory, newest first.
[[nodiscard]] std::vector<std::filesystem::path> list_checkpoints(
    const std::filesystem::path& directory);

/// Those that `options` doesn't keep, the oldest first. The newest one always stays.
[[nodiscard]] std::vector<std::filesystem::path> checkpoints_to_prune(
    const std::filesystem::path& directory, const CheckpointOptions& options);

/// Removes and returns them.
std::vector<std::filesystem::path> prune_checkpoints(const std::filesystem::path& directory,
                                                     const CheckpointOptions& options);

/// `path` itself if it is a checkpoint, else the newest one in it. Throws CheckpointError where
/// there is none.
[[nodiscard]] std::filesystem::path find_checkpoint(const std::filesystem::path& path);

}  // namespace shardmix::checkpoint
