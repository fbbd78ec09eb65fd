// Events: numbered records, whose numbers appear in the segment when a stream comes to them.

#include <algorithm>
#include <mutex>
#include <set>

#include "counting.hpp"
#include "emulated/kernel.hpp"
#include "errors.hpp"
#include "events.hpp"
#include "graphs.hpp"
#include "streams.hpp"

namespace emulation {
namespace {

std::mutex mutex;
bool is_taken[most_events];

std::set<Event*>& live() {
  static auto& all = *new std::set<Event*>;
  return all;
}

EventState& state_of(const Event& event) {
  return event.where->events[event.slot];
}

int take_slot() {
  const auto* free = std::find(std::begin(is_taken), std::end(is_taken), false);
  if (free == std::end(is_taken)) fatal("there are {} events; no more fit", most_events);
  const auto slot = static_cast<int>(free - is_taken);
  is_taken[slot] = true;
  return slot;
}

}  // namespace

Event* new_event(Segment* where, int slot, unsigned flags) {
  const std::lock_guard lock(mutex);
  auto* event = new Event{.where = where, .slot = slot, .flags = flags, .device = current_device()};
  event->is_imported = slot >= 0;
  if (slot < 0) {
    event->where = &segment();
    event->slot = take_slot();
    event->before = state_of(*event).recorded;
  }
  live().insert(event);
  return event;
}

cudaError_t open_event(cudaEvent_t handle, const char* call, Event*& event) {
  EMULATION_TRY(enter(call));
  const std::lock_guard lock(mutex);
  if (!live().contains(handle)) {
    return misuse(cudaErrorInvalidResourceHandle,
                  "{} was given the event {}, which was never created or is destroyed", call,
                  static_cast<void*>(handle));
  }
  event = handle;
  return cudaSuccess;
}

std::uint64_t last_record(const Event& event) {
  const std::uint64_t record = state_of(event).recorded;
  return record > event.before ? record : 0;
}

int events_left() {
  const std::lock_guard lock(mutex);
  return static_cast<int>(live().size());
}

namespace {

/// As open_event(), for what a capture's events can't answer.
cudaError_t open_uncaptured(cudaEvent_t handle, const char* call, Event*& event) {
  EMULATION_TRY(open_event(handle, call, event));
  if (event->capture == nullptr) return cudaSuccess;
  invalidate(*event->capture);
  return noted(cudaErrorCapturedEvent);
}

/// Device process.
void put_done(Segment* where, int slot, std::uint64_t record) {
  EventState& state = where->events[slot];
  state.nanoseconds = device_clock();
  std::atomic<std::uint64_t>& place = state.done[record % EventState::remembered];
  if (place < record) place = record;
  if (where != &segment()) ring(where->bell);
}

}  // namespace
}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  EMULATION_TRY(enter("cudaEventCreateWithFlags"));
  if ((flags & cudaEventInterprocess) != 0 && (flags & cudaEventDisableTiming) == 0) {
    return misuse(cudaErrorInvalidValue,
                  "cudaEventCreateWithFlags: events between processes need "
                  "cudaEventDisableTiming");
  }
  *event = new_event(nullptr, -1, flags);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  Event* event = nullptr;
  EMULATION_TRY(open_event(handle, "cudaEventDestroy", event));
  const std::lock_guard lock(mutex);
  live().erase(event);
  if (!event->is_imported) is_taken[event->slot] = false;
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  Event* event = nullptr;
  Stream* stream = nullptr;
  EMULATION_TRY(open_event(handle, "cudaEventRecord", event));
  EMULATION_TRY(open_stream(stream_handle, "cudaEventRecord", stream));
  if (event->device != stream->device) {
    return misuse(cudaErrorInvalidResourceHandle,
                  "cudaEventRecord: the event is of device {} and the stream of device {}",
                  event->device, stream->device);
  }
  if (stream->capture != nullptr) return record_captured(*event, *stream);
  event->capture = nullptr;
  const std::uint64_t record = state_of(*event).recorded.fetch_add(1) + 1;
  return submit(*stream, [where = event->where, slot = event->slot, record] {
    put_done(where, slot, record);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned flags) {
  Event* event = nullptr;
  Stream* stream = nullptr;
  EMULATION_TRY(open_event(handle, "cudaStreamWaitEvent", event));
  EMULATION_TRY(open_stream(stream_handle, "cudaStreamWaitEvent", stream));
  if (flags != cudaEventWaitDefault)
    return misuse(cudaErrorInvalidValue, "cudaStreamWaitEvent: unknown flags {}", flags);
  count(&Counts::event_waits);
  if (event->capture != nullptr || stream->capture != nullptr) return join(*stream, *event);
  const std::uint64_t record = last_record(*event);
  if (record == 0) return cudaSuccess;
  return submit(*stream, [where = event->where, slot = event->slot, record] {
    wait_until(where->bell, [&] { return where->events[slot].is_done(record); });
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  Event* event = nullptr;
  EMULATION_TRY(open_uncaptured(handle, "cudaEventQuery", event));
  return state_of(*event).is_done(last_record(*event)) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  Event* event = nullptr;
  EMULATION_TRY(open_uncaptured(handle, "cudaEventSynchronize", event));
  count(&Counts::host_waits);
  const std::uint64_t record = last_record(*event);
  wait_until(event->where->bell, [&] { return state_of(*event).is_done(record); });
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from_handle,
                                 cudaEvent_t to_handle) {
  Event* from = nullptr;
  Event* to = nullptr;
  EMULATION_TRY(open_uncaptured(from_handle, "cudaEventElapsedTime", from));
  EMULATION_TRY(open_uncaptured(to_handle, "cudaEventElapsedTime", to));
  for (const Event* event : {from, to}) {
    if ((event->flags & cudaEventDisableTiming) != 0 || last_record(*event) == 0) {
      return misuse(cudaErrorInvalidResourceHandle,
                    "cudaEventElapsedTime: an event was never recorded, or has "
                    "cudaEventDisableTiming");
    }
    if (!state_of(*event).is_done(last_record(*event))) return cudaErrorNotReady;
  }
  *milliseconds =
      static_cast<float>(state_of(*to).nanoseconds - state_of(*from).nanoseconds) * 1e-6f;
  return cudaSuccess;
}

}  // extern "C"
