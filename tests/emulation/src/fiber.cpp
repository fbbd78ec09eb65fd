#include "fiber.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "errors.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

// Saves the registers that a call keeps on the stack that is left, and takes them from the other.
asm(R"(
.text
.globl emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");

namespace emulation {
namespace {

constexpr std::size_t guard = 4096;

}  // namespace

Stack::Stack() {
  void* memory = mmap(nullptr, guard + bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0)
    fatal("no memory for the stack of a kernel's thread: {}", std::strerror(errno));
  memory_ = static_cast<std::byte*>(memory) + guard;
}

Stack::~Stack() {
  munmap(memory_ - guard, guard + bytes);
}

Context Stack::begin(void (*main)()) const {
  // Six registers, the address that `ret` takes, and one word, so that main begins as after a call.
  auto* top = reinterpret_cast<std::uint64_t*>(memory_ + bytes) - 8;
  std::memset(top, 0, 64);
  top[6] = reinterpret_cast<std::uint64_t>(main);
  return {top};
}

#if defined(__SANITIZE_ADDRESS__)
void announce_switch(void** fake, const void* bottom, std::size_t bytes) {
  __sanitizer_start_switch_fiber(fake, bottom, bytes);
}
void confirm_switch(void* fake, const void** left_bottom, std::size_t* left_bytes) {
  __sanitizer_finish_switch_fiber(fake, left_bottom, left_bytes);
}
#else
void announce_switch(void** /*fake*/, const void* /*bottom*/, std::size_t /*bytes*/) {}
void confirm_switch(void* /*fake*/, const void** /*left_bottom*/, std::size_t* /*left_bytes*/) {}
#endif

}  // namespace emulation
