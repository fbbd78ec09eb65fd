#pragma once

/// A checkpoint that one process writes in place of all ranks: without MPI or a GPU, from values
/// that come from anywhere.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>

#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// How a checkpoint is cut into files: as so many ranks would have written it.
struct Cut {
  int ranks = 1;
  int ranks_per_file = 1;
  /// Of the run that is to load it: each of its ranks then finds its shard in one file.
  std::int64_t bucket_elements = default_bucket_elements(DeviceKind::host, 1);
};

/// Throws ConfigError for a cut that can't be, or where `run_directory` has a checkpoint of this
/// step already.
void require_sensible(const Cut& cut, const std::filesystem::path& run_directory,
                      std::int64_t step);

/// Gives the elements of a state of parameter number `parameter` from `offset` on. "master" is also
/// where the values of frozen parameters are.
using GiveValues = std::function<void(std::size_t parameter, std::string_view state,
                                      std::int64_t offset, std::span<float> values)>;

/// Writes the checkpoint that `info` describes into `run_directory`, which is made where it isn't
/// there, under the name of its step. `info` needs neither files nor ranks. Returns what its
/// manifest says. Throws CheckpointError, and what `give` throws; then nothing of it is left.
/// `progress` gets the bytes of values.
CheckpointInfo write_alone(CheckpointInfo info, const std::filesystem::path& run_directory,
                           const Cut& cut, const GiveValues& give,
                           const CheckpointProgress& progress = {});

}  // namespace shardmix::checkpoint
