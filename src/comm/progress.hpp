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

  /// `operation` is driven until it is done, and kept alive so long. In the order of starts, as far
  /// as first steps go.
  void start(std::shared_ptr<Operation> operation);

  /// Whether it is done. Drives all operations once where no thread does. Throws what this one
  /// threw.
  [[nodiscard]] bool poll(const Operation& operation);
  /// Waits for it, under the watch's deadline.
  void wait(const Operation& operation, std::string_view what);
  /// For the end of whoever started it: waits, but not while an exception ends this rank. Then
  /// buffers may be in use for ever, and must not be freed. True if the operation is done.
  bool leave(const Operation& operation) noexcept;

 private:
  /// True if an operation was done.
  bool drive();
  void run();

  Watch& watch_;
  std::vector<std::shared_ptr<Operation>> operations_;  ///< the driving thread's alone

  std::mutex mutex_;  ///< of what follows. Never held while operations are driven
  std::condition_variable has_work_;
  std::vector<std::shared_ptr<Operation>> started_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace shardmix::comm
