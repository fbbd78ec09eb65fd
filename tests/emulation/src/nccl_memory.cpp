// Memory that NCCL knows: allocated, registered by one rank, or in a window of all.

#include <sys/mman.h>

#include <algorithm>

#include "arena.hpp"
#include "memory.hpp"
#include "nccl_communicator.hpp"
#include "process.hpp"
#include "shared_files.hpp"

namespace emulation::nccl {
namespace {

bool has_windows() {
  return setting("EMULATION_NCCL_WINDOWS", 1) != 0;
}

Registered range_of(const void* memory, std::size_t bytes) {
  return {reinterpret_cast<std::uintptr_t>(memory), bytes};
}

ncclResult_t check_range(const void* memory, std::size_t bytes) {
  const Allocation* held = find(memory);
  const Registered range = range_of(memory, bytes);
  if (held != nullptr && range.begin + bytes <= held->begin + held->bytes) return ncclSuccess;
  return refuse(ncclInvalidArgument, "NCCL was given {} bytes at {} to register: {}", bytes, memory,
                emulation::describe(range.begin));
}

void* keep(Communicator& c, const Registered& memory) {
  void* handle = new char;
  c.registered.emplace(handle, memory);
  return handle;
}

}  // namespace

bool is_registered(const Communicator& communicator, const void* memory, std::size_t bytes) {
  const Registered range = range_of(memory, bytes);
  return std::ranges::any_of(communicator.registered, [&](const auto& entry) {
    const Registered& known = entry.second;
    return range.begin >= known.begin && range.begin + bytes <= known.begin + known.bytes;
  });
}

bool open_windows(Communicator& c) {
  while (!c.windows.empty()) {
    const PendingWindow& window = c.windows.front();
    for (int r = 0; r < c.size; ++r) {
      const Rank& rank = c.shared->ranks[r];
      if (rank.windows < window.number) return false;
      const std::uint64_t bytes = rank.window_bytes[window.number % remembered_calls];
      if (bytes != window.memory.bytes) {
        fatal("NCCL's window {} has {} bytes on rank {}, but {} on rank {}", window.number,
              window.memory.bytes, c.rank, bytes, r);
      }
    }
    *window.handle = has_windows() ? static_cast<ncclWindow_t>(keep(c, window.memory)) : nullptr;
    c.windows.erase(c.windows.begin());
  }
  return true;
}

}  // namespace emulation::nccl

using namespace emulation;
using namespace emulation::nccl;

extern "C" {

ncclResult_t ncclMemAlloc(void** memory, std::size_t bytes) {
  if (enter("ncclMemAlloc") != cudaSuccess) return ncclUnhandledCudaError;
  return allocate(Kind::device, memory, bytes, true) == cudaSuccess ? ncclSuccess
                                                                    : ncclUnhandledCudaError;
}

ncclResult_t ncclMemFree(void* memory) {
  if (enter("ncclMemFree") != cudaSuccess) return ncclUnhandledCudaError;
  for (const Communicator* c : all_communicators()) {
    if (is_registered(*c, memory, 1))
      return refuse(ncclInvalidUsage, "ncclMemFree was given memory that is still registered");
  }
  return release(memory, "ncclMemFree", Kind::device, Kind::device) == cudaSuccess
             ? ncclSuccess
             : ncclUnhandledCudaError;
}

ncclResult_t ncclCommRegister(ncclComm_t communicator, void* memory, std::size_t bytes,
                              void** handle) {
  if (const ncclResult_t result = open_settled(communicator, "ncclCommRegister");
      result != ncclSuccess)
    return result;
  if (const ncclResult_t result = check_range(memory, bytes); result != ncclSuccess) return result;
  *handle = keep(*communicator, range_of(memory, bytes));
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(ncclComm_t communicator, void* handle) {
  if (const ncclResult_t result = open(communicator, "ncclCommDeregister"); result != ncclSuccess)
    return result;
  if (communicator->registered.erase(handle) == 0)
    return refuse(ncclInvalidArgument, "NCCL was given {} to deregister, which isn't registered",
                  handle);
  delete static_cast<char*>(handle);
  return ncclSuccess;
}

/// Of all ranks together. The handle comes when they have met, and null where there are no windows.
ncclResult_t ncclCommWindowRegister(ncclComm_t communicator, void* memory, std::size_t bytes,
                                    ncclWindow_t* window, int /*flags*/) {
  if (const ncclResult_t result = open_settled(communicator, "ncclCommWindowRegister");
      result != ncclSuccess)
    return result;
  if (const ncclResult_t result = check_range(memory, bytes); result != ncclSuccess) return result;
  if (reinterpret_cast<std::uintptr_t>(memory) % NCCL_WIN_REQUIRED_ALIGNMENT != 0) {
    return refuse(ncclInvalidArgument,
                  "ncclCommWindowRegister: {} isn't a multiple of {}; use ncclMemAlloc", memory,
                  NCCL_WIN_REQUIRED_ALIGNMENT);
  }
  Communicator& c = *communicator;
  Rank& own = c.shared->ranks[c.rank];
  const std::uint64_t number = ++c.windows_called;
  own.window_bytes[number % remembered_calls] = bytes;
  own.windows = number;
  ring(c.shared->bell);
  c.windows.push_back({number, range_of(memory, bytes), window});
  if (!c.is_blocking) return begin_call(c);
  wait_until(c.shared->bell, [&] { return open_windows(c); });
  return ncclSuccess;
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t communicator, ncclWindow_t window) {
  return ncclCommDeregister(communicator, window);
}

}  // extern "C"
