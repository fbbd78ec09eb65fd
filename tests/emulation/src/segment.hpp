#pragma once

/// What a host process and its device process share, besides the memory of the arenas: queues of
/// commands, events, the table of allocations. Peers map it too, for events between processes.

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace emulation {

constexpr int most_devices = 8;
constexpr int most_queues = 256;
constexpr int most_events = 16384;
constexpr int most_allocations = 1 << 20;
constexpr int most_importers = 16;
constexpr std::size_t queue_bytes = 1 << 20;
constexpr std::size_t landing_bytes = 1 << 20;

/// A command's function, which runs in the device process: both have the same code at the same
/// addresses.
using Run = void (*)(std::byte* payload);

/// Commands of one stream. Counters only grow, also when another stream takes the queue.
struct Queue {
  std::atomic<std::uint64_t> written{0};  ///< bytes
  std::atomic<std::uint64_t> read{0};
  std::atomic<std::uint64_t> submitted{0};  ///< commands
  std::atomic<std::uint64_t> completed{0};
  std::atomic<std::uint32_t> arrivals{0};  ///< its worker waits here
};

/// Records of an event are numbered. One that is done puts its number at its place.
struct EventState {
  static constexpr std::size_t remembered = 16;
  std::atomic<std::uint64_t> recorded{0};
  std::atomic<std::uint64_t> done[remembered]{};
  std::atomic<std::int64_t> nanoseconds{0};  ///< when the last was done

  [[nodiscard]] bool is_done(std::uint64_t record) const {
    return record == 0 || done[record % remembered].load() >= record;
  }
};

enum class Kind : std::uint8_t { device, pinned, managed, imported };

struct Allocation {
  std::uintptr_t begin = 0;
  std::uint64_t bytes = 0;
  std::int64_t number = 0;
  std::int32_t device = 0;
  Kind kind = Kind::device;
  bool is_exportable = false;  ///< to other processes
  std::atomic<bool> is_live{false};
  std::atomic<std::int32_t> importers[most_importers]{};  ///< processes that have it open, or 0
};

struct Segment {
  std::atomic<std::uint32_t> bell{0};  ///< rung when anything is done
  std::atomic<std::int32_t> host{0};
  std::atomic<std::int32_t> device{0};
  std::atomic<std::uint64_t> seed{1};
  std::atomic<std::uint32_t> delay_us{0};
  std::atomic<std::int64_t> reply{0};  ///< of the last command that has one
  std::atomic<int> allocations{0};
  std::atomic<void (*)(void*)> host_function{nullptr};  ///< asked for by a stream
  std::atomic<void*> host_data{nullptr};
  Queue queues[most_queues];
  EventState events[most_events];
  Allocation table[most_allocations];
  alignas(4096) std::byte landing[landing_bytes];
  alignas(4096) std::byte rings[most_queues][queue_bytes];
};

/// Of this process.
[[nodiscard]] Segment& segment();

/// Wakes all that wait at a bell, which processes may share.
void ring(std::atomic<std::uint32_t>& bell);
/// Waits until `ready()`, which may become true when the bell is rung.
template <class Ready>
void wait_until(std::atomic<std::uint32_t>& bell, const Ready& ready);

/// Waits until the word isn't `seen` any more, or some time has gone by.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t seen);
void futex_wake(std::atomic<std::uint32_t>& word);
/// Ends this process if the other one of its pair is gone.
void check_other_process();

template <class Ready>
void wait_until(std::atomic<std::uint32_t>& bell, const Ready& ready) {
  for (;;) {
    const std::uint32_t seen = bell.load();
    if (ready()) return;
    futex_wait(bell, seen);
    check_other_process();
  }
}

}  // namespace emulation
