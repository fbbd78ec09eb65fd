#pragma once

/// `shardmix bench step` and `shardmix bench collectives`: what all ranks do together, beside the
/// bound that memory or links set, and beside the MPI library's own collectives.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/result.hpp"
#include "shardmix/dtype.hpp"
#include "shardmix/runtime.hpp"

namespace shardmix::bench {

/// The names that stand for MPI_Reduce_scatter_block and MPI_Allgather among the transports: with
/// fp32 sums as ours, and with sums rounded to the gradients' dtype.
inline constexpr std::string_view library = "library";
inline constexpr std::string_view library_rounded = "library-rounded";

struct GroupOptions {
  std::vector<std::string> collectives{"auto"};  ///< transports to compare, and the libraries
  DeviceKind device = DeviceKind::host;
  int threads = 0;
  std::int64_t parameters = std::int64_t{1} << 26;
  std::int64_t bucket_elements = std::int64_t{1} << 22;
  int rounds = 9;
  double link_gigabits = 0.0;  ///< that a host's link carries each way; 0: unknown
};

struct StepOptions : GroupOptions {
  std::vector<std::string> rules{"ademamix"};
  std::vector<std::string> precisions{"bf16"};
  /// Seconds of synthetic computation around a step, behind which communication may hide; 0: as
  /// long as the communication itself. None: the step alone.
  std::optional<double> compute = {};
};

struct CollectivesOptions : GroupOptions {
  DType dtype = DType::bf16;
};

/// Collective over MPI_COMM_WORLD, which must run. Rank 0 alone reports. Throws ConfigError.
void run_step(const StepOptions& options, const Report& report);
void run_collectives(const CollectivesOptions& options, const Report& report);

}  // namespace shardmix::bench
