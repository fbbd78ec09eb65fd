#pragma once

/// A checkpoint as another number of ranks would have written it. Loading needs no such thing; a
/// run that starts often, or a file system that minds many files, may be glad of it.

#include <filesystem>

#include "checkpoint/sole_writer.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// Verifies `checkpoint` (or the newest one in a run's directory), then writes it anew into
/// `run_directory`, which is made where it isn't there, under the name of its step. Returns what
/// the new one's manifest says. Without MPI or a GPU. Throws CheckpointError where the checkpoint
/// is damaged or the new one can't be written, and ConfigError where an option makes no sense or
/// `run_directory` has a checkpoint of this step.
CheckpointInfo reshard_checkpoint(const std::filesystem::path& checkpoint,
                                  const std::filesystem::path& run_directory, const Cut& cut,
                                  const CheckpointProgress& progress = {});

}  // namespace shardmix::checkpoint
