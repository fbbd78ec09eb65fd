#pragma once

/// `shardmix bench step`: whole steps of all ranks, beside the bound that memory or links set, and
/// beside steps over the MPI library's own collectives.

#include <optional>
#include <string>
#include <vector>

#include "bench/contest.hpp"

namespace shardmix::bench {

struct StepOptions : GroupOptions {
  std::vector<std::string> rules{"ademamix"};
  std::vector<std::string> precisions{"bf16"};
  /// Seconds of synthetic computation around a step, behind which communication may hide; 0: as
  /// long as the communication itself. None: the step alone.
  std::optional<double> compute = {};
};

/// Collective over MPI_COMM_WORLD, which must run. Rank 0 alone reports. Throws ConfigError.
void run_step(const StepOptions& options, const Report& report);

}  // namespace shardmix::bench
