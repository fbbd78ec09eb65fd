#include "cli/progress_line.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "train/format.hpp"

namespace shardmix::cli {

using namespace std::chrono_literals;

ProgressLine::ProgressLine(std::string what)
    : what_(std::move(what)), is_terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (is_shown_) std::fputs("\r\033[K", stderr);
}

void ProgressLine::show(std::int64_t done, std::int64_t total) {
  const Clock::time_point now = Clock::now();
  if (!is_terminal_ || total <= 0 || (now - shown_ < 200ms && done < total)) return;
  shown_ = now;
  is_shown_ = true;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  const double fraction = static_cast<double>(done) / static_cast<double>(total);
  const std::string line = fmt::format(
      "\r\033[K{}: {:.0f}% of {}, {} left", what_, 100.0 * fraction, train::format_bytes(total),
      train::format_duration(fraction > 0.0 ? seconds / fraction - seconds : 0.0));
  std::fputs(line.c_str(), stderr);
}

CheckpointProgress ProgressLine::callback() {
  return [this](std::int64_t done, std::int64_t total) { show(done, total); };
}

}  // namespace shardmix::cli
