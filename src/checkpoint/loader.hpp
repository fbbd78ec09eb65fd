#pragma once

#include <filesystem>
#include <string>

#include "checkpoint/contents.hpp"
#include "optimizer/optimizer_impl.hpp"

namespace shardmix::checkpoint {

/// Collective; the files are shared out among the ranks. Throws CheckpointError.
[[nodiscard]] OpenCheckpoint open_checkpoint(comm::Collectives& collectives,
                                             const std::filesystem::path& directory);

/// Throws CheckpointError, before anything is changed, where the model isn't the same, or the
/// checkpoint lacks what the rule needs. Collective.
void require_fitting(const ShardedOptimizer::Impl& optimizer, const OpenCheckpoint& checkpoint);

/// Loads it. Each rank reads the blocks in which its shard lies, and compares their checksums;
/// blocks that none needs are shared out and compared too. Collective. Returns a note on what
/// changed on the way (a switch of the rule), or "". Throws CheckpointError where a file is
/// damaged: the optimizer's values are then undefined, its clocks and structure as before.
[[nodiscard]] std::string load(ShardedOptimizer::Impl& optimizer, const OpenCheckpoint& checkpoint);

}  // namespace shardmix::checkpoint
