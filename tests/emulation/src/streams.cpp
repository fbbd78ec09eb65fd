#include "streams.hpp"

#include <algorithm>
#include <memory>
#include <mutex>
#include <set>

#include "counting.hpp"
#include "graphs.hpp"

namespace emulation {
namespace {

std::mutex mutex;  // of all that follows
bool is_started[most_queues];
bool is_taken[most_queues];
Stream* legacy_streams[most_devices];

std::set<Stream*>& live() {
  static auto& all = *new std::set<Stream*>;
  return all;
}

/// A queue that nobody uses and in which nothing is left to do.
int take_queue() {
  for (int q = control_queue + 1; q < most_queues; ++q) {
    if (is_taken[q]) continue;
    if (!is_done(q, segment().queues[q].submitted)) continue;
    is_taken[q] = true;
    if (!is_started[q]) run_in_device([q] { start_worker(q); });
    is_started[q] = true;
    return q;
  }
  fatal("there are {} streams; no more fit", most_queues - 1);
}

Stream* new_stream(int device, unsigned flags, int priority) {
  auto* stream =
      new Stream{.queue = take_queue(), .device = device, .flags = flags, .priority = priority};
  stream->last = segment().queues[stream->queue].submitted;
  live().insert(stream);
  return stream;
}

void end_stream(Stream* stream) {
  const std::lock_guard lock(mutex);
  live().erase(stream);
  is_taken[stream->queue] = false;
  delete stream;
}

/// A thread's own default streams.
struct ThreadStreams {
  Stream* of_device[most_devices] = {};
  ~ThreadStreams() {
    for (Stream* stream : of_device) {
      if (stream != nullptr) end_stream(stream);
    }
  }
};

Stream* default_stream(cudaStream_t handle) {
  thread_local ThreadStreams own;
  const std::lock_guard lock(mutex);
  const int device = current_device();
  const bool is_own = handle == cudaStreamPerThread;
  Stream*& stream = is_own ? own.of_device[device] : legacy_streams[device];
  if (stream == nullptr) {
    stream = new_stream(device, cudaStreamDefault, 0);
    stream->is_legacy = !is_own;
  }
  return stream;
}

bool is_default(cudaStream_t handle) {
  return handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread;
}

void push_wait(Stream& stream, int queue, std::uint64_t count) {
  stream.last = push(stream.queue, command([queue, count] { wait_for(queue, count); }, false));
}

/// The legacy stream's commands come after those of all blocking streams so far, and theirs after
/// its.
void order_by_legacy(Stream& stream) {
  if (stream.is_legacy) {
    for (Stream* other : live()) {
      if (other == &stream || other->device != stream.device || other->last == 0 ||
          (other->flags & cudaStreamNonBlocking) != 0 || other->seen_by_legacy == other->last)
        continue;
      push_wait(stream, other->queue, other->last);
      other->seen_by_legacy = other->last;
    }
  } else if ((stream.flags & cudaStreamNonBlocking) == 0) {
    const Stream* legacy = legacy_streams[stream.device];
    if (legacy == nullptr || legacy->last == stream.legacy_seen) return;
    push_wait(stream, legacy->queue, legacy->last);
    stream.legacy_seen = legacy->last;
  }
}

}  // namespace

cudaError_t open_stream(cudaStream_t handle, const char* call, Stream*& stream) {
  EMULATION_TRY(enter(call));
  if (is_default(handle)) {
    stream = default_stream(handle);
    if (stream->is_legacy && is_blocked_by_capture()) return noted(cudaErrorStreamCaptureImplicit);
    return cudaSuccess;
  }
  const std::lock_guard lock(mutex);
  if (!live().contains(handle)) {
    return misuse(cudaErrorInvalidResourceHandle,
                  "{} was given the stream {}, which was never created or is destroyed", call,
                  static_cast<void*>(handle));
  }
  if (handle->device != current_device()) {
    return misuse(cudaErrorInvalidResourceHandle,
                  "{} was given a stream of device {} while device {} is current", call,
                  handle->device, current_device());
  }
  stream = handle;
  return cudaSuccess;
}

cudaError_t open_uncaptured(cudaStream_t handle, const char* call, Stream*& stream) {
  EMULATION_TRY(open_stream(handle, call, stream));
  if (stream->capture == nullptr) return cudaSuccess;
  invalidate(*stream->capture);
  return noted(cudaErrorStreamCaptureUnsupported);
}

cudaError_t submit(Stream& stream, const Command& command) {
  if (stream.capture != nullptr) return append(stream, command);
  const std::lock_guard lock(mutex);
  order_by_legacy(stream);
  stream.last = push(stream.queue, command);
  return cudaSuccess;
}

void wait_for(const Stream& stream) {
  const auto [queue, last] = [&] {
    const std::lock_guard lock(mutex);
    return std::pair(stream.queue, stream.last);
  }();
  wait_for(queue, last);
}

void wait_for_device(int /*device*/) {
  for (int q = control_queue + 1; q < most_queues; ++q) {
    if (is_started[q]) wait_for(q, segment().queues[q].submitted);
  }
}

int streams_left() {
  const std::lock_guard lock(mutex);
  return static_cast<int>(
      std::ranges::count_if(live(), [](const Stream* s) { return !s->is_legacy; }));
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  EMULATION_TRY(enter("cudaStreamCreateWithPriority"));
  if ((flags & ~unsigned{cudaStreamNonBlocking}) != 0)
    return misuse(cudaErrorInvalidValue, "cudaStreamCreateWithPriority: unknown flags {}", flags);
  const std::lock_guard lock(mutex);
  *stream = new_stream(current_device(), flags, priority);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaStreamGetPriority", stream));
  *priority = stream->priority;
  return cudaSuccess;
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaStreamGetFlags", stream));
  *flags = stream->flags;
  return cudaSuccess;
}

/// What was submitted is still carried out.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  if (is_default(handle))
    return misuse(cudaErrorInvalidResourceHandle, "cudaStreamDestroy was given a default stream");
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaStreamDestroy", stream));
  if (stream->capture != nullptr) invalidate(*stream->capture);
  end_stream(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_uncaptured(handle, "cudaStreamSynchronize", stream));
  count(&Counts::host_waits);
  wait_for(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_uncaptured(handle, "cudaStreamQuery", stream));
  return is_done(stream->queue, stream->last) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
  EMULATION_TRY(enter("cudaDeviceSynchronize"));
  EMULATION_TRY(refuse_during_capture());
  count(&Counts::host_waits);
  wait_for_device(current_device());
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

}  // extern "C"
