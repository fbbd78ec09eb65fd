#pragma once

/// What is queued on a GPU waits for other ranks, and so does the trainer's own stream, which we
/// lead. Where the trainer waits for its stream no call of ours is there to notice a rank that is
/// gone. A thread looks after it, and ends the process if need be: nothing else ends such a wait.

#include <condition_variable>
#include <mutex>
#include <thread>

#include "comm/watch.hpp"
#include "device/device.hpp"

namespace shardmix::comm {

class QueueWatch {
 public:
  /// Both must outlive it.
  QueueWatch(Watch& watch, device::Device& device);
  ~QueueWatch();
  QueueWatch(const QueueWatch&) = delete;
  QueueWatch& operator=(const QueueWatch&) = delete;

  /// What is queued so far must end.
  void look_after();

 private:
  void run();
  /// To the newest place.
  void go_on();
  /// After a verdict: returns when another thread is told it too. Where none is, and the queue
  /// doesn't get on, the process ends.
  void await_others();
  /// After a pause.
  [[nodiscard]] bool is_past();

  Watch& watch_;
  device::Device& device_;
  std::mutex mutex_;
  std::condition_variable wakes_;
  bool ends_ = false;
  int place_ = 0;          ///< that the thread looks at; the other one is the newest
  bool is_newer_ = false;  ///< the other one was remembered since
  std::thread thread_;
};

}  // namespace shardmix::comm
