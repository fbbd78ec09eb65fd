#include "queue.hpp"

#include <pthread.h>
#include <time.h>

#include <mutex>

#include "errors.hpp"
#include "process.hpp"

namespace emulation {
namespace {

constexpr std::uint64_t step = 64;  ///< headers and payloads begin at multiples of it

struct Header {
  Run run;  ///< null: the rest of the ring is skipped
  std::uint64_t bytes;
  bool is_delayed;
};
static_assert(sizeof(Header) <= step);

thread_local bool is_ending = false;
thread_local std::uint64_t random_state = 0;

std::byte* place(int queue, std::uint64_t at) {
  return segment().rings[queue] + at % queue_bytes;
}

std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

void* run_worker(void* queue) {
  work(static_cast<int>(reinterpret_cast<std::intptr_t>(queue)));
  return nullptr;
}

std::mutex push_mutexes[most_queues];

}  // namespace

std::uint64_t push(int number, const Command& made) {
  const std::lock_guard lock(push_mutexes[number]);
  Queue& queue = segment().queues[number];
  const std::uint64_t bytes = (made.payload.size() + step - 1) / step * step;
  const std::uint64_t all = step + bytes;
  if (all > queue_bytes / 2)
    fatal("a command of {} bytes is larger than a queue takes", made.payload.size());
  std::uint64_t at = queue.written.load();
  const std::uint64_t left = queue_bytes - at % queue_bytes;
  const std::uint64_t skipped = left < all ? left : 0;
  wait_until(segment().bell, [&] { return at + skipped + all - queue.read.load() <= queue_bytes; });
  if (skipped != 0) {
    *reinterpret_cast<Header*>(place(number, at)) = {nullptr, skipped - step, false};
    at += skipped;
  }
  *reinterpret_cast<Header*>(place(number, at)) = {made.run, bytes, made.is_delayed};
  std::memcpy(place(number, at + step), made.payload.data(), made.payload.size());
  const std::uint64_t count = queue.submitted.fetch_add(1) + 1;
  queue.written.store(at + all);
  queue.arrivals.fetch_add(1);
  futex_wake(queue.arrivals);
  return count;
}

bool is_done(int queue, std::uint64_t count) {
  return segment().queues[queue].completed.load() >= count;
}

void wait_for(int queue, std::uint64_t count) {
  wait_until(segment().bell, [&] { return is_done(queue, count); });
}

void work(int number) {
  Queue& queue = segment().queues[number];
  is_ending = false;
  while (!is_ending) {
    const std::uint32_t seen = queue.arrivals.load();
    const std::uint64_t at = queue.read.load();
    if (queue.written.load() == at) {
      futex_wait(queue.arrivals, seen);
      check_other_process();
      continue;
    }
    const Header header = *reinterpret_cast<Header*>(place(number, at));
    if (header.run != nullptr) {
      random_state = segment().seed.load() * 0x9E3779B97F4A7C15u +
                     static_cast<std::uint64_t>(number) * 0xD1B54A32D192ED03u +
                     queue.completed.load();
      if (header.is_delayed) delay();
      header.run(place(number, at + step));
      queue.completed.fetch_add(1);
    }
    queue.read.store(at + step + header.bytes);
    ring(segment().bell);
  }
}

void end_worker() {
  is_ending = true;
}

void start_worker(int queue) {
  pthread_t thread{};
  const int error =
      pthread_create(&thread, nullptr, run_worker, reinterpret_cast<void*>(std::intptr_t{queue}));
  if (error != 0) fatal("no thread could be started for a stream: {}", std::strerror(error));
  pthread_detach(thread);
}

std::uint64_t random_bits() {
  random_state += 0x9E3779B97F4A7C15u;
  return mixed(random_state);
}

/// Mostly none, now and then a long one: eight times the mean.
void delay() {
  const std::uint64_t mean = segment().delay_us.load();
  if (mean == 0) return;
  const std::uint64_t bits = random_bits();
  if (bits % 8 != 0) return;
  const std::uint64_t ns = (bits >> 8) % (16 * mean * 1000);
  const timespec time{static_cast<time_t>(ns / 1'000'000'000),
                      static_cast<long>(ns % 1'000'000'000)};
  nanosleep(&time, nullptr);
}

}  // namespace emulation
