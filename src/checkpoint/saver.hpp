#pragma once

#include <filesystem>
#include <string_view>

#include "optimizer/optimizer_impl.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// Writes and commits a checkpoint of `optimizer` in `run_directory`; returns its directory.
/// Collective. A crash or an error at any point leaves either all of the new checkpoint or none of
/// it, and the older ones as they were.
std::filesystem::path save(ShardedOptimizer::Impl& optimizer,
                           const std::filesystem::path& run_directory,
                           const CheckpointOptions& options, std::string_view trainer_state);

}  // namespace shardmix::checkpoint
