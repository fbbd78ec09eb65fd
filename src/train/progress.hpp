#pragma once

/// How the run goes, for people, on standard error: one line that renews itself on a terminal, else
/// a line every so many steps.

#include <chrono>
#include <cstdint>
#include <string>

#include "train/metrics.hpp"

namespace shardmix::train {

/// Used by rank 0 alone.
class Progress {
 public:
  /// `log_every`: steps between lines where standard error is no terminal.
  Progress(std::int64_t first_step, std::int64_t steps, std::int64_t log_every);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(const StepMetrics& metrics);

  /// Ends the renewing line, so that other lines can follow.
  void interrupt();

 private:
  [[nodiscard]] std::string line(const StepMetrics& metrics) const;

  std::int64_t first_step_;
  std::int64_t steps_;
  std::int64_t log_every_;
  bool terminal_;
  bool line_open_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace shardmix::train
