#pragma once

/// Streams and events as the host's process knows them.

#include <cstdint>
#include <memory>
#include <vector>

#include "emulated/api.hpp"
#include "errors.hpp"
#include "queue.hpp"

namespace emulation {
struct Capture;
}

struct CUstream_st {
  int queue = -1;
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  bool is_legacy = false;
  std::uint64_t last = 0;         ///< the number of its last command in its queue
  std::uint64_t legacy_seen = 0;  ///< as far as it waits for the legacy stream's commands
  std::uint64_t seen_by_legacy = 0;
  std::shared_ptr<emulation::Capture> capture = nullptr;
  std::vector<std::size_t> frontier =
      {};  ///< the capture's nodes that come next before what follows
};

struct CUevent_st {
  emulation::Segment* where = nullptr;  ///< whose event it is
  int slot = 0;
  unsigned flags = 0;
  int device = 0;
  std::uint64_t before = 0;  ///< records of the slot's earlier owners
  bool is_imported = false;
  std::shared_ptr<emulation::Capture> capture = nullptr;  ///< where it was last recorded
  std::vector<std::size_t> frontier = {};
};

namespace emulation {

using Stream = CUstream_st;
using Event = CUevent_st;

/// The stream behind a handle, of the current device and in use.
[[nodiscard]] cudaError_t open_stream(cudaStream_t handle, const char* call, Stream*& stream);
/// As open_stream(), for what can't be done while streams are captured.
[[nodiscard]] cudaError_t open_uncaptured(cudaStream_t handle, const char* call, Stream*& stream);
[[nodiscard]] cudaError_t open_event(cudaEvent_t handle, const char* call, Event*& event);

/// Appends a command: to the queue, or to the graph that is captured.
[[nodiscard]] cudaError_t submit(Stream& stream, const Command& command);
template <class Call>
[[nodiscard]] cudaError_t submit(Stream& stream, const Call& call) {
  return submit(stream, command(call));
}

/// Waits until all that was submitted to a stream is done.
void wait_for(const Stream& stream);
/// Waits for all streams of a device.
void wait_for_device(int device);

[[nodiscard]] int current_device();
/// The streams and events that nobody destroyed.
[[nodiscard]] int streams_left();
[[nodiscard]] int events_left();

}  // namespace emulation

#define EMULATION_TRY(...) \
  if (const cudaError_t error = (__VA_ARGS__); error != cudaSuccess) return emulation::noted(error)
