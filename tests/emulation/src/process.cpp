#include "process.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "arena.hpp"
#include "errors.hpp"
#include "faults.hpp"
#include "fiber.hpp"
#include "leaks.hpp"
#include "queue.hpp"

namespace emulation {
namespace {

Segment* shared = nullptr;
int shared_file = -1;
bool is_device = false;

Segment* map_shared(int descriptor) {
  void* memory = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                      descriptor, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<Segment*>(memory);
}

void make_segment() {
  shared_file = memfd_create("emulated-gpu-queues", MFD_CLOEXEC);
  if (shared_file < 0 || ftruncate(shared_file, sizeof(Segment)) != 0)
    fatal("no memory to share with the device process: {}", std::strerror(errno));
  shared = map_shared(shared_file);
  if (shared == nullptr) fatal("mmap failed: {}", std::strerror(errno));
  // Fresh pages are zeros, which is what the constructors of all members leave.
  shared->host = getpid();
  shared->seed = static_cast<std::uint64_t>(setting("EMULATION_SEED", 1));
  shared->delay_us = static_cast<std::uint32_t>(setting("EMULATION_DELAY_US", 20));
}

/// Addresses at which the host will have memory are without access here: before it, and below and
/// behind what both have from before the fork. So a kernel that is given such an address faults.
void leave_room_for_host() {
  constexpr std::size_t below = std::size_t{16} << 40;
  constexpr std::size_t heap = std::size_t{1} << 30;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  mmap(nullptr, below, PROT_NONE, flags, -1, 0);
  mmap(sbrk(0), heap, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
}

/// The main thread's stack is where the host's is. Where it began stays: the system's libraries
/// look up the program's name there.
void close_main_stack(const char* const* arguments) {
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  char line[512];
  while (maps != nullptr && std::fgets(line, sizeof line, maps) != nullptr) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    if (std::strstr(line, "[stack]") == nullptr || std::sscanf(line, "%lx-%lx", &begin, &end) != 2)
      continue;
    end = reinterpret_cast<std::uintptr_t>(arguments) / 4096 * 4096;
    mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_NONE);
  }
  if (maps != nullptr) std::fclose(maps);
}

char** program_arguments = nullptr;

/// On a stack of its own.
void control() {
  confirm_switch(nullptr, nullptr, nullptr);
  close_main_stack(program_arguments);
  watch_for_faults();
  work(control_queue);
  _exit(0);
}

[[noreturn]] void live_as_device() {
  is_device = true;
  leave_room_for_host();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};  // of terabytes of addresses
  setrlimit(RLIMIT_CORE, &no_core);
  prctl(PR_SET_NAME, "emulated-gpu");
  prctl(PR_SET_TIMERSLACK, 1000);
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);  // NCCL's ranks read each other's memory
  if (getppid() != shared->host) _exit(1);
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT})
    signal(signal_number, SIG_IGN);
  const int nothing = open("/dev/null", O_RDONLY);
  if (nothing > 0) {
    dup2(nothing, STDIN_FILENO);
    close(nothing);
  }
  Context main_context;
  const auto* stack = new Stack;
  const Context own = stack->begin(control);
  announce_switch(nullptr, stack->bottom(), Stack::bytes);
  emulation_switch(&main_context, &own);
  __builtin_unreachable();
}

__attribute__((constructor)) void begin(int /*count*/, char** arguments) {
  program_arguments = arguments;
  make_segment();
  reserve_arenas();
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) fatal("the device process couldn't be forked: {}", std::strerror(errno));
  if (child == 0) live_as_device();
  shared->device = child;
  watch_for_faults();
}

/// Leaves no process behind: what still runs after a while is killed.
__attribute__((destructor)) void end() {
  if (!is_host()) return;
  const bool has_leaks = report_leaks();
  push(control_queue, command([] { end_worker(); }, false));
  for (int i = 0; i < 2000; ++i) {
    if (waitpid(shared->device, nullptr, WNOHANG) != 0) {
      if (has_leaks) _exit(23);
      return;
    }
    usleep(1000);
  }
  end_device_process();
  if (has_leaks) _exit(23);
}

}  // namespace

Segment& segment() {
  return *shared;
}

bool in_device_process() {
  return is_device;
}
bool is_host() {
  return !is_device && shared != nullptr && getpid() == shared->host;
}
int segment_descriptor() {
  return shared_file;
}

std::int64_t setting(const char* name, std::int64_t otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end = nullptr;
  const std::int64_t value = std::strtoll(text, &end, 10);
  if (*end != '\0') fatal("{} is '{}'; it must be a whole number", name, text);
  return value;
}

void end_device_process() {
  if (!is_host() || shared->device == 0) return;
  kill(shared->device, SIGKILL);
  waitpid(shared->device, nullptr, 0);
}

FilePath file_path(int process, int descriptor) {
  FilePath path{};
  std::snprintf(path.text, sizeof path.text, "/proc/%d/fd/%d", process, descriptor);
  return path;
}

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t seen) {
  const timespec most{0, 50'000'000};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &most, nullptr, 0);
}

void futex_wake(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, 1 << 30, nullptr, nullptr, 0);
}

void ring(std::atomic<std::uint32_t>& bell) {
  bell.fetch_add(1);
  futex_wake(bell);
}

void check_other_process() {
  if (is_device) {
    if (getppid() != shared->host) _exit(1);
    return;
  }
  int status = 0;
  if (is_host() && waitpid(shared->device, &status, WNOHANG) == shared->device) {
    fatal("the device process ended by itself ({} {})", WIFSIGNALED(status) ? "signal" : "status",
          WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  }
}

}  // namespace emulation
