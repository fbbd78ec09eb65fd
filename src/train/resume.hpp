#pragma once

/// How a run goes on from a checkpoint, and what it refuses to overwrite.

#include <cstdint>
#include <optional>

#include "shardmix/checkpoints.hpp"
#include "train/options.hpp"
#include "train/trainer_state.hpp"

namespace shardmix::train {

struct Resumed {
  std::int64_t step = 0;               ///< steps done; 0: the run starts
  std::optional<TrainerState> stored;  ///< what the checkpoint says of its run
};

/// Loads what options.resume says. Collective. Throws CheckpointError for a damaged checkpoint or
/// another model's, ConfigError where the run would write among the checkpoints of a run that is
/// further on.
[[nodiscard]] Resumed resume(Runtime& runtime, const TrainOptions& options,
                             Checkpoints& checkpoints, ShardedOptimizer& optimizer);

}  // namespace shardmix::train
