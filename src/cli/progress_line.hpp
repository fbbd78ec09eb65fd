#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "shardmix/checkpoints.hpp"

namespace shardmix::cli {

/// A line on standard error, where that is a terminal, that tells how far a long reading is. It is
/// gone at the end.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Bytes done, of so many.
  void show(std::int64_t done, std::int64_t total);

  /// What calls show(). This must outlive it.
  [[nodiscard]] CheckpointProgress callback();

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool is_terminal_;
  bool is_shown_ = false;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point shown_ = begin_;
};

}  // namespace shardmix::cli
