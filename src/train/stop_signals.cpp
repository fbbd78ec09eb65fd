#include "train/stop_signals.hpp"

#include <array>
#include <csignal>
#include <cstddef>

namespace shardmix::train {
namespace {

constexpr std::array stop_signals{SIGTERM, SIGINT, SIGUSR1};

volatile std::sig_atomic_t last_signal = 0;
std::array<struct sigaction, stop_signals.size()> earlier_actions{};

extern "C" void remember_signal(int signal) {
  last_signal = signal;
}

}  // namespace

StopSignals::StopSignals() {
  last_signal = 0;
  struct sigaction action {};
  action.sa_handler = remember_signal;
  // The handler stays for further signals, and system calls go on: a save is not disturbed.
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < stop_signals.size(); ++i) {
    sigaction(stop_signals[i], &action, &earlier_actions[i]);
  }
}

StopSignals::~StopSignals() {
  // Asked to stop, the process is about to end by itself, with an exit code that says how. Let it.
  if (last_signal != 0) return;
  for (std::size_t i = 0; i < stop_signals.size(); ++i) {
    sigaction(stop_signals[i], &earlier_actions[i], nullptr);
  }
}

int StopSignals::received() noexcept {
  return last_signal;
}

}  // namespace shardmix::train
