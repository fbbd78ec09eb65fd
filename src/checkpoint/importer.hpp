#pragma once

/// States of another program's optimizer as a checkpoint to go on from.

#include <filesystem>

#include "checkpoint/import_plan.hpp"
#include "checkpoint/sole_writer.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// Reads all values once: those that can't be (not finite, an average of squares below 0) are
/// refused, and the files' checksums compared where the sidecar has them. Adds warnings of what is
/// odd to the plan. Throws CheckpointError.
void check_values(ImportPlan& plan, const CheckpointProgress& progress = {});

/// Writes the checkpoint into `run_directory`, as reshard does, whatever check_values() found:
/// that comes first. Throws CheckpointError and, where the directory or the cut doesn't suit,
/// ConfigError.
CheckpointInfo write_import(const ImportPlan& plan, const std::filesystem::path& run_directory,
                            const Cut& cut, const CheckpointProgress& progress = {});

}  // namespace shardmix::checkpoint
