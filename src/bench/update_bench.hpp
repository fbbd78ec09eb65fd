#pragma once

/// `shardmix bench update`: the speed of the update kernels, beside the speed at which the same
/// memory can be streamed in the same run.

#include <cstdint>
#include <string>
#include <vector>

#include "bench/result.hpp"
#include "shardmix/runtime.hpp"

namespace shardmix::bench {

struct UpdateOptions {
  std::vector<std::string> rules;       ///< names; empty: all
  std::vector<std::string> precisions;  ///< names; empty: all
  DeviceKind device = DeviceKind::host;
  int threads = 0;  ///< of the host; 0: as many as it has cores
  std::int64_t parameters = std::int64_t{1} << 25;
  int rounds = 7;

  bool operator==(const UpdateOptions&) const = default;
};

/// Measures each rule in each precision, and hands each result to `report` when it is there. Throws
/// ConfigError for an unknown name or a number out of range.
void run_update(const UpdateOptions& options, const Report& report);

}  // namespace shardmix::bench
