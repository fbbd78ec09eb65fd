#include "faults.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "arena.hpp"
#include "block.hpp"
#include "errors.hpp"
#include "process.hpp"

/// Where a sanitizer is there, of addresses or of undefined behaviour.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace emulation {
namespace {

constexpr int watched[] = {SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGFPE};
struct sigaction before[NSIG];

void say(const std::string& sentence) {
  const std::string line = "emulated GPU: " + sentence + "\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, line.data(), line.size());
}

std::string access(int number, const siginfo_t& info, const void* context) {
  if (number == SIGABRT) return "was ended by abort()";
  if (number == SIGILL || number == SIGFPE)
    return fmt::format("did what a processor refuses (signal {})", number);
  const auto* machine = static_cast<const ucontext_t*>(context);
  const bool is_write = (machine->uc_mcontext.gregs[REG_ERR] & 2) != 0;
  const auto address = reinterpret_cast<std::uintptr_t>(info.si_addr);
  const std::string what = fmt::format("{} {:#x}", is_write ? "wrote to" : "read", address);
  if (is_in_arenas(address)) return what + ", " + describe(address);
  if (address < 4096) return what + ", a null pointer";
  return what + ", no memory of the device: an address of the host?";
}

/// In the device process: a kernel's fault, which ends both processes.
void explain_in_device(int number, siginfo_t* info, void* context) {
  const std::string who = running_thread();
  say(who + " " + access(number, *info, context));
  kill(getppid(), SIGABRT);
  _exit(1);
}

/// In the host process: the handler from before then does what it does with such a fault.
void explain_in_host(int number, siginfo_t* info, void* /*context*/) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (is_in_arenas(address)) {
    say(fmt::format("host code touched device memory at {:#x}, {}", address, describe(address)));
  }
  struct sigaction& next = before[number];
  if ((next.sa_flags & SA_SIGINFO) == 0 && next.sa_handler == SIG_IGN) next.sa_handler = SIG_DFL;
  sigaction(number, &next, nullptr);  // the access is tried again, and fails there
}

/// After a sanitizer's report.
void follow_sanitizer() {
  say(running_thread() + " did what a sanitizer refuses");
  kill(getppid(), SIGABRT);
}

}  // namespace

void watch_for_faults() {
  const auto handler = in_device_process() ? explain_in_device : explain_in_host;
  for (const int number : watched) {
    if (!in_device_process() && number != SIGSEGV && number != SIGBUS) continue;
    struct sigaction now {};
    sigaction(number, nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == handler) continue;
    before[number] = now;
    struct sigaction ours {};
    ours.sa_sigaction = handler;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(number, &ours, nullptr);
  }
  if (!in_device_process()) return;
  give_signal_stack();
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(follow_sanitizer);
}

void give_signal_stack() {
  constexpr std::size_t bytes = 256 << 10;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  const stack_t stack{.ss_sp = memory, .ss_flags = 0, .ss_size = bytes};
  sigaltstack(&stack, nullptr);
}

}  // namespace emulation
