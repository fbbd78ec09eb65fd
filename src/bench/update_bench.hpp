#pragma once

/// `shardmix bench update`: the speed of the update kernels, beside the speed at which the same
/// memory can be streamed in the same run.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

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

/// Medians over the rounds.
struct UpdateResult {
  std::string rule;
  std::string precision;
  std::string device;
  int threads = 0;
  std::int64_t parameters = 0;
  double bytes_per_parameter = 0.0;  ///< read and written
  double mparameters_per_second = 0.0;
  double gigabytes_per_second = 0.0;
  double bound_gigabytes_per_second = 0.0;  ///< of a pass that moves the same bytes and no more

  [[nodiscard]] double fraction_of_bound() const {
    return gigabytes_per_second / bound_gigabytes_per_second;
  }
};

/// The names that `precisions` may hold, with what they mean.
struct PrecisionName {
  std::string name;
  std::string meaning;
};
[[nodiscard]] std::vector<PrecisionName> precision_names();

/// Measures each rule in each precision, and hands each result to `report` when it is there. Throws
/// ConfigError for an unknown name or a number out of range.
void run_update(const UpdateOptions& options,
                const std::function<void(const UpdateResult&)>& report);

}  // namespace shardmix::bench
