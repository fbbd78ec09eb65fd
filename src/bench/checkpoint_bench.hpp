#pragma once

/// `shardmix bench checkpoint`: saves and loads of all ranks, beside plain files of the same sizes.

#include <cstdint>
#include <filesystem>
#include <string>

#include "bench/result.hpp"
#include "shardmix/runtime.hpp"

namespace shardmix::bench {

struct CheckpointOptions {
  std::string rule = "ademamix";
  std::string precision = "bf16";
  std::filesystem::path directory = ".";  ///< in which a directory of our own is made and removed
  DeviceKind device = DeviceKind::host;
  int threads = 0;
  std::int64_t parameters = std::int64_t{1} << 26;
  std::int64_t bucket_elements = std::int64_t{1} << 22;
  int rounds = 3;
  double compute = 2.0;  ///< seconds of a pass between two steps
  int ranks_per_file = 1;
};

/// Collective over MPI_COMM_WORLD, which must run. Rank 0 alone reports. Throws ConfigError, and
/// CheckpointError where the directory can't hold what is written.
void run_checkpoint(const CheckpointOptions& options, const Report& report);

}  // namespace shardmix::bench
