#include "comm/queue_watch.hpp"

#include <chrono>

#include "shardmix/error.hpp"

namespace shardmix::comm {

using std::chrono::milliseconds;

QueueWatch::QueueWatch(Watch& watch, device::Device& device)
    : watch_(watch), device_(device), thread_([this] { run(); }) {}

QueueWatch::~QueueWatch() {
  {
    const std::scoped_lock lock(mutex_);
    ends_ = true;
  }
  wakes_.notify_all();
  thread_.join();
}

void QueueWatch::look_after() {
  {
    const std::scoped_lock lock(mutex_);
    device_.remember(1 - place_);
    is_newer_ = true;
  }
  wakes_.notify_all();
}

void QueueWatch::run() {
  constexpr milliseconds between_answers{50};
  try {
    for (;;) {
      watch_.listen();  // this rank's own thread may be elsewhere
      {
        std::unique_lock lock(mutex_);
        wakes_.wait_for(lock, between_answers, [this] { return ends_ || is_newer_; });
        if (ends_) return;
        if (!is_newer_) continue;
        go_on();
      }
      watch_.wait("what is queued on the GPU", [this] { return is_past(); });
    }
  } catch (const CommError&) {  // the verdict
    await_others();
  } catch (const DeviceError&) {  // the GPU's own error, which the next call meets
  }
}

void QueueWatch::go_on() {
  place_ = 1 - place_;
  is_newer_ = false;
}

bool QueueWatch::is_past() {
  constexpr milliseconds pause{10};
  {
    std::unique_lock lock(mutex_);
    if (wakes_.wait_for(lock, pause, [this] { return ends_; })) return true;
  }
  return device_.is_past(place_);
}

void QueueWatch::await_others() {
  auto last_past = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() < last_past + watch_.grace()) {
    if (watch_.told() > 1) return;  // this thread was told too
    try {
      if (is_past()) last_past = std::chrono::steady_clock::now();
    } catch (const DeviceError&) {
      return;
    }
    const std::scoped_lock lock(mutex_);
    if (ends_) return;
    if (is_newer_) go_on();
  }
  watch_.end_process("another rank is gone", "its GPU waits for other ranks");
}

}  // namespace shardmix::comm
