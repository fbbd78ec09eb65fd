#pragma once

#include <sched.h>

#include <chrono>
#include <thread>

namespace shardmix::comm {

/// Pauses between polls: none at first, then the core is offered to others, then short sleeps.
class Backoff {
 public:
  void pause() {
    if (++polls_ < spins) return;
    if (polls_ < spins + yields) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
  void reset() noexcept { polls_ = 0; }

 private:
  static constexpr int spins = 50;
  static constexpr int yields = 4000;
  int polls_ = 0;
};

}  // namespace shardmix::comm
