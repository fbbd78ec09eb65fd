#pragma once

#include <filesystem>
#include <optional>

#include "checkpoint/contents.hpp"
#include "optimizer/optimizer_impl.hpp"

namespace shardmix::checkpoint {

/// Collective; the files are shared out among the ranks. Throws CheckpointError.
[[nodiscard]] OpenCheckpoint open_checkpoint(comm::Collectives& collectives,
                                             const std::filesystem::path& directory);

/// Throws CheckpointError, before anything is changed, where the model isn't the same, or the
/// checkpoint lacks what the rule needs, and ConfigError where m2 can't start so. Collective.
void require_fitting(const ShardedOptimizer::Impl& optimizer, const OpenCheckpoint& checkpoint,
                     const SwitchOptions& options);

/// Loads it. Each rank reads the blocks in which its shard lies, and compares their checksums;
/// blocks that none needs are shared out and compared too. Collective. Returns the switch that this
/// is where another rule wrote it, or one with other states. Throws CheckpointError where a file is
/// damaged: the optimizer's values are then undefined, its clocks and structure as before.
[[nodiscard]] std::optional<SwitchReport> load(ShardedOptimizer::Impl& optimizer,
                                               const OpenCheckpoint& checkpoint,
                                               const SwitchOptions& options);

}  // namespace shardmix::checkpoint
