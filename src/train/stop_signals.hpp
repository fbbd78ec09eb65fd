#pragma once

/// A polite end: SIGTERM (a scheduler's), SIGINT (Ctrl-C) and SIGUSR1 (what mpirun passes on
/// without killing) ask the run to save a checkpoint and to end after the step under way.

namespace shardmix::train {

/// Catches the signals for its life, one object at a time. After it they act as before; but where
/// one came, further ones stay without effect.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came to this process last; 0: none.
  [[nodiscard]] static int received() noexcept;
};

}  // namespace shardmix::train
