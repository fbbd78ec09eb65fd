#pragma once

/// One block of a kernel: its threads take turns on a thread of the device process, warps and lanes
/// in an order that is drawn for each block. A thread runs until it waits for others or ends.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "emulated/launch.hpp"
#include "emulated/warp.hpp"
#include "fiber.hpp"

namespace emulation {

class Block {
 public:
  /// The one that runs on this thread of the system.
  [[nodiscard]] static Block& current();

  /// Runs all threads of block `index` to their ends.
  void run(const Kernel& kernel, const uint3& index, const dim3& size);

  // Called by the running thread:
  /// Returns how many threads came with a true predicate.
  int wait_at_barrier(int predicate, const Place& place);
  std::uint64_t exchange(const Offer& offer);
  void pause(unsigned nanoseconds);
  [[nodiscard]] unsigned lanes_left() const;

  /// "kernel f, block (1, 0, 0), thread (5, 0, 0)", or what else runs.
  [[nodiscard]] std::string running() const;

 private:
  enum class State : unsigned char { ready, at_barrier, in_exchange, done };

  struct Thread {
    State state = State::ready;
    bool is_paused = false;
    uint3 index = {};
    Context context = {};
    std::unique_ptr<Stack> stack;
    Offer offer = {};          ///< in an exchange
    std::uint64_t result = 0;  ///< of the exchange or the barrier
    int predicate = 0;
    Place place = {};  ///< of the barrier
  };

  static void thread_main();
  void reset(const dim3& size);
  void resume(std::size_t number);
  void leave();
  void end_thread();
  void open_barrier();
  [[nodiscard]] std::size_t first_lane() const { return current_ / 32 * 32; }
  void check(const Offer& offer) const;
  void resolve(unsigned mask);
  [[nodiscard]] std::uint64_t taken(const Offer& offer, int lane, unsigned mask) const;
  [[noreturn]] void report_stuck() const;
  [[nodiscard]] std::string name(std::size_t thread) const;

  const Kernel* kernel_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<Stack>> stacks_;  ///< of no thread
  std::vector<std::size_t> order_;
  std::size_t count_ = 0;  ///< threads of this block; there may be room for more
  std::size_t current_ = 0;
  std::size_t left_ = 0;     ///< threads that have not ended
  std::size_t waiting_ = 0;  ///< at the barrier
  unsigned sleep_ = 0;       ///< what all ready threads pause for
  Context scheduler_ = {};
  const void* system_stack_ = nullptr;  ///< for sanitizers
  std::size_t system_stack_bytes_ = 0;
};

[[nodiscard]] std::string running_thread();

}  // namespace emulation
