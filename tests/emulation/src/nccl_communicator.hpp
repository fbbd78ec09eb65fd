#pragma once

/// A communicator as its rank's host process knows it.

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "nccl_shared.hpp"
#include "streams.hpp"

namespace emulation::nccl {

struct Registered {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
};

struct PendingWindow {
  std::uint64_t number = 0;
  Registered memory;
  ncclWindow_t* handle = nullptr;
};

}  // namespace emulation::nccl

struct ncclComm {
  emulation::nccl::Shared* shared = nullptr;
  int rank = 0;
  int size = 0;
  int device = 0;
  bool is_blocking = true;
  bool is_finalized = false;
  ncclResult_t state = ncclInProgress;
  int polls_left = 0;  ///< before it may be told that a call has been carried out
  std::uint64_t polls = 0;
  std::uint64_t groups = 0;
  std::uint64_t collectives = 0;
  /// Groups that were ended and not yet put into their streams.
  std::vector<std::pair<cudaStream_t, emulation::Command>> pending = {};
  std::vector<std::pair<int, std::uint64_t>> submitted = {};  ///< queues and numbers
  /// Memory that was registered, by its handle.
  std::map<void*, emulation::nccl::Registered> registered = {};
  /// That whose windows other ranks have yet to call for.
  std::vector<emulation::nccl::PendingWindow> windows = {};
  std::uint64_t windows_called = 0;
  std::string last_error = {};
};

namespace emulation::nccl {

using Communicator = ncclComm;

/// The communicator behind a handle, in use, and not in the middle of a call that doesn't block.
[[nodiscard]] ncclResult_t open_settled(ncclComm_t handle, const char* call);
/// As open_settled(), at any moment.
[[nodiscard]] ncclResult_t open(ncclComm_t handle, const char* call);

/// A call that was made goes on for a while, if the communicator doesn't block.
[[nodiscard]] ncclResult_t begin_call(Communicator& communicator);
/// Puts pending groups into their streams.
void submit_pending(Communicator& communicator);

/// Whether all of some memory is registered.
[[nodiscard]] bool is_registered(const Communicator& communicator, const void* memory,
                                 std::size_t bytes);
/// Makes the windows for which all ranks have called. Whether none is left.
[[nodiscard]] bool open_windows(Communicator& communicator);

[[nodiscard]] std::vector<const Communicator*> all_communicators();
[[nodiscard]] int communicators_left();

template <class... Args>
[[nodiscard]] ncclResult_t refuse(ncclResult_t result, fmt::format_string<Args...> format,
                                  Args&&... args) {
  (void)misuse(cudaErrorInvalidValue, format, std::forward<Args>(args)...);
  return result;
}

}  // namespace emulation::nccl
