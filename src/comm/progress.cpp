#include "comm/progress.hpp"

#include <chrono>
#include <utility>

#include "comm/backoff.hpp"
#include "device/device.hpp"

namespace shardmix::comm {

Progress::Progress(Watch& watch, bool with_thread) : watch_(watch) {
  if (with_thread) thread_ = std::thread([this] { run(); });
}

Progress::~Progress() {
  const Watch::Guarded guarded(watch_);
  {
    const std::scoped_lock lock(mutex_);
    ends_ = true;
  }
  has_work_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Progress::start(std::shared_ptr<Operation> operation) {
  {
    ++starting_;
    const std::scoped_lock lock(mutex_);
    --starting_;
    operations_.push_back(std::move(operation));
    drive();
  }
  has_work_.notify_one();
}

/// The caller holds the lock.
void Progress::drive() {
  if (watch_.over()) return;
  std::erase_if(operations_, [](const std::shared_ptr<Operation>& operation) {
    try {
      if (!operation->advance()) return false;
    } catch (...) {
      operation->error_ = std::current_exception();
    }
    operation->done_.store(true, std::memory_order_release);
    return true;
  });
}

bool Progress::poll(const Operation& operation) {
  if (!operation.done()) {
    const Watch::Guarded guarded(watch_);
    if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock()) drive();
  }
  if (!operation.done()) return false;
  if (operation.error_) std::rethrow_exception(operation.error_);
  return true;
}

void Progress::wait(const Operation& operation, std::string_view what) {
  watch_.wait(what, [&] { return poll(operation); });
}

bool Progress::leave(const Operation& operation) noexcept {
  if (!operation.done() && !watch_.over()) {
    try {
      wait(operation, "an operation under way");
    } catch (const std::exception&) {  // who waits next meets it again
    }
  }
  if (!operation.done()) device::keep_memory();
  return operation.done();
}

void Progress::run() {
  Backoff backoff;
  auto listened = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!ends_) {
    if (operations_.empty() || watch_.over()) {
      has_work_.wait_for(lock, std::chrono::milliseconds(50));
      backoff.reset();
    } else {
      drive();
    }
    lock.unlock();
    while (starting_ > 0) std::this_thread::yield();  // a mutex isn't fair
    // A rank whose own thread computes answers through this one.
    if (const auto now = std::chrono::steady_clock::now();
        now - listened > std::chrono::milliseconds(50)) {
      listened = now;
      watch_.listen();
    }
    backoff.pause();
    lock.lock();
  }
}

}  // namespace shardmix::comm
