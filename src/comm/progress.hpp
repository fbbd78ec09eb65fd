#pragma once

/// Operations that go on while their callers do something else.
///
/// MPI moves large messages only inside its calls. Where MPI allows several threads, one of ours
/// drives the operations under way; elsewhere who waits drives them.

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/watch.hpp"

namespace shardmix::comm {

/// Something that takes several steps, each of which may have to wait for others.
class Operation {
 public:
  virtual ~Operation() = default;
  /// Does what can be done without waiting. True when all is done.
  [[nodiscard]] virtual bool advance() = 0;

  [[nodiscard]] bool done() const noexcept { return done_.load(std::memory_order_acquire); }

 private:
  friend class Progress;
  std::atomic<bool> done_ = false;
  std::exception_ptr error_;  ///< of advance(); set before done_
};

class Progress {
 public:
  Progress(Watch& watch, bool with_thread);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `operation` is driven until it is done, and kept alive so long.
  void start(std::shared_ptr<Operation> operation);

  /// Drives all operations once, unless another thread does. Throws what this one threw.
  [[nodiscard]] bool poll(const Operation& operation);
  /// Waits for it, under the watch's deadline.
  void wait(const Operation& operation, std::string_view what);
  /// For the end of whoever started it: waits, but not while an exception ends this rank. Then
  /// buffers may be in use for ever, and must not be freed. True if the operation is done.
  bool leave(const Operation& operation) noexcept;

 private:
  void drive();
  void run();

  Watch& watch_;
  std::mutex mutex_;
  std::atomic<int> starting_ = 0;  ///< threads that want the mutex to start an operation
  std::condition_variable has_work_;
  std::vector<std::shared_ptr<Operation>> operations_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace shardmix::comm
