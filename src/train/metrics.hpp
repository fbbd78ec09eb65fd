#pragma once

/// metrics.jsonl: what each step did, one JSON object a line. Numbers read back as the same
/// doubles, so that two runs can be compared to the last bit. docs/trainer.md lists the fields.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "shardmix/optimizer.hpp"

namespace shardmix::train {

struct StepMetrics {
  StepReport report;
  double loss = 0.0;                    ///< mean over the global batch, in nats a token
  std::optional<double> held_out_loss;  ///< where it was measured after this step
  double tokens_per_second = 0.0;       ///< of all ranks together
};

/// One line, without its end. A number that is not finite is null.
[[nodiscard]] std::string to_json_line(const StepMetrics& metrics);

/// The file, open for appending.
class MetricsFile {
 public:
  /// Keeps the lines up to step `steps_done` of an earlier run and drops the rest: those steps will
  /// come again. Throws Error where the file can't be read or written.
  MetricsFile(std::filesystem::path path, std::int64_t steps_done);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  /// Appends a line, whole or not at all as far as the disk allows. Throws Error.
  void append(const StepMetrics& metrics);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace shardmix::train
