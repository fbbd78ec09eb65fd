#pragma once

/// Commands from the host to a thread of the device process. A command is a value that can be
/// called; its bytes go through the ring of its queue.

#include <cstring>
#include <type_traits>
#include <vector>

#include "segment.hpp"

namespace emulation {

/// A command as bytes: what queues and graphs hold.
struct Command {
  Run run = nullptr;
  std::vector<std::byte> payload;
  bool is_delayed = true;  ///< whether a delay may come before it
};

template <class Call>
[[nodiscard]] Command command(const Call& call, bool is_delayed = true) {
  static_assert(std::is_trivially_copyable_v<Call> && alignof(Call) <= 64);
  Command made{[](std::byte* payload) { (*reinterpret_cast<Call*>(payload))(); }, {}, is_delayed};
  made.payload.resize(sizeof(Call));
  std::memcpy(made.payload.data(), &call, sizeof(Call));
  return made;
}

/// Queue 0 is the control's: its commands run in the device process's control thread.
constexpr int control_queue = 0;

/// Host: puts a command into a queue, and waits while the queue is full. Returns its number.
std::uint64_t push(int queue, const Command& command);
/// Host: runs a call in the device process's control thread and waits for it.
template <class Call>
void run_in_device(const Call& call);
/// Host: waits until the first `count` commands of a queue are done.
void wait_for(int queue, std::uint64_t count);
[[nodiscard]] bool is_done(int queue, std::uint64_t count);

/// Device process: carries out the commands of a queue until one calls end_worker().
void work(int queue);
void end_worker();
/// Device process: a new thread that works on a queue.
void start_worker(int queue);
/// Device process: sleeps for a random while, or not.
void delay();
/// Device process: random bits of this worker, from the seed, its queue and the command's number.
[[nodiscard]] std::uint64_t random_bits();

template <class Call>
void run_in_device(const Call& call) {
  wait_for(control_queue, push(control_queue, command(call, false)));
}

}  // namespace emulation
