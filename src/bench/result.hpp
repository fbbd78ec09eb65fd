#pragma once

/// What a measurement found: medians over its rounds.

#include <cstdint>
#include <functional>
#include <string>

namespace shardmix::bench {

struct Result {
  std::string operation;
  std::string rule = {};
  std::string precision;
  std::string device;
  int threads = 0;  ///< of each rank on a host
  std::string collectives = {};
  int ranks = 1;
  int hosts = 1;
  std::int64_t parameters = 0;
  /// That the bound counts: moved in memory by all ranks together, or over the link of one host one
  /// way.
  double bytes_per_parameter = 0.0;
  double seconds = 0.0;
  double bound_seconds = 0.0;  ///< 0: unknown
  double hidden =
      -1.0;  ///< fraction of the communication behind computation; below 0: not measured

  [[nodiscard]] double mparameters_per_second() const {
    return static_cast<double>(parameters) / seconds / 1e6;
  }
  [[nodiscard]] double gigabytes_per_second() const { return gigabytes() / seconds; }
  [[nodiscard]] double bound_gigabytes_per_second() const {
    return bound_seconds > 0.0 ? gigabytes() / bound_seconds : 0.0;
  }
  [[nodiscard]] double fraction_of_bound() const { return bound_seconds / seconds; }

 private:
  [[nodiscard]] double gigabytes() const {
    return static_cast<double>(parameters) * bytes_per_parameter / 1e9;
  }
};

/// Takes each result when it is there.
using Report = std::function<void(const Result&)>;

}  // namespace shardmix::bench
