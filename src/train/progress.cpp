#include "train/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "train/format.hpp"

namespace shardmix::train {

Progress::Progress(std::int64_t first_step, std::int64_t steps, std::int64_t log_every)
    : first_step_(first_step),
      steps_(steps),
      log_every_(log_every),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  interrupt();
}

std::string Progress::line(const StepMetrics& metrics) const {
  const StepReport& report = metrics.report;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  const auto done = static_cast<double>(report.step - first_step_ + 1);
  const double left = elapsed.count() / done * static_cast<double>(steps_ - report.step);
  return fmt::format("step {:>{}}/{}  loss {:.4f}  norm {:.3f}  lr {:.2e}  {} tokens/s  {} left",
                     report.step, fmt::formatted_size("{}", steps_), steps_, metrics.loss,
                     report.gradient_norm, report.lr, format_count(metrics.tokens_per_second),
                     format_duration(left));
}

void Progress::show(const StepMetrics& metrics) {
  const std::int64_t step = metrics.report.step;
  if (terminal_) {
    // The trailing escape clears what a longer line before has left.
    std::fputs(fmt::format("\r{}\x1b[K", line(metrics)).c_str(), stderr);
    line_open_ = true;
    if (step == steps_) interrupt();
  } else if (step % log_every_ == 0 || step == steps_ || step == first_step_) {
    std::fputs((line(metrics) + '\n').c_str(), stderr);
  }
}

void Progress::interrupt() {
  if (line_open_) std::fputc('\n', stderr);
  line_open_ = false;
}

}  // namespace shardmix::train
