#pragma once

/// Threads of a kernel's block, each with a stack of its own, on one thread of the system.

#include <cstddef>

namespace emulation {

/// Where a fiber, or whoever resumed it, goes on.
struct Context {
  void* stack_pointer = nullptr;
};

/// A stack with a page without access below it.
class Stack {
 public:
  Stack();
  ~Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  static constexpr std::size_t bytes = 256 << 10;  // of addresses; pages come as they are touched

  /// A context that calls `main` on this stack; it must never return.
  [[nodiscard]] Context begin(void (*main)()) const;
  [[nodiscard]] const std::byte* bottom() const { return memory_; }

 private:
  std::byte* memory_;
};

/// Leaves what runs in `from`, and goes on in `to`.
extern "C" void emulation_switch(Context* from, const Context* to);

/// Sanitizers of addresses are told before a switch on which stack it goes on, and after it that it
/// came; `fake` is what they keep of the context that is left, null where it never returns.
void announce_switch(void** fake, const void* bottom, std::size_t bytes);
void confirm_switch(void* fake, const void** left_bottom, std::size_t* left_bytes);

}  // namespace emulation
