#pragma once

/// The reference trainer: a GPT on any text, to see the optimizer at work and to try its options
/// on.

#include "shardmix/runtime.hpp"
#include "train/options.hpp"

namespace shardmix::train {

/// The run was asked to stop before its last step, has saved a checkpoint, and wants to be started
/// again (EX_TEMPFAIL of sysexits.h).
inline constexpr int exit_start_again = 75;

/// Trains as told and returns the program's exit code: 0 when all steps are done, or
/// exit_start_again. Collective. Throws shardmix::Error on all ranks alike, and LocalError or
/// another exception where one rank fails alone. Throws ConfigError where the build has no trainer.
[[nodiscard]] int train(Runtime& runtime, const TrainOptions& options);

/// Whether the build has the trainer.
[[nodiscard]] bool trainer_available() noexcept;

}  // namespace shardmix::train
