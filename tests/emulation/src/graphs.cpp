// A graph is launched as its commands, one after the other, in any order that its edges allow: an
// edge that is missing shows.

#include "graphs.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <utility>

#include "counting.hpp"

struct CUgraph_st {
  std::vector<emulation::Node> nodes;
};
struct CUgraphExec_st {
  std::vector<emulation::Node> nodes;
  std::uint64_t launches = 0;
};

namespace emulation {
namespace {

std::mutex mutex;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

template <class T>
std::set<T*>& live() {
  static auto& all = *new std::set<T*>;
  return all;
}

template <class T>
cudaError_t open(T* handle, const char* call) {
  EMULATION_TRY(enter(call));
  const std::lock_guard lock(mutex);
  if (live<T>().contains(handle)) return cudaSuccess;
  return misuse(cudaErrorInvalidValue,
                "{} was given the graph {}, which was never made or is destroyed", call,
                static_cast<void*>(handle));
}

template <class T>
cudaError_t destroy(T* handle, const char* call) {
  EMULATION_TRY(open(handle, call));
  const std::lock_guard lock(mutex);
  live<T>().erase(handle);
  delete handle;
  return cudaSuccess;
}

void unite(std::vector<std::size_t>& into, const std::vector<std::size_t>& from) {
  for (const std::size_t node : from) {
    if (std::ranges::find(into, node) == into.end()) into.push_back(node);
  }
}

/// Whether all nodes come before the origin's end.
bool is_joined(const Capture& capture) {
  std::vector<bool> reached(capture.nodes.size(), false);
  std::vector<std::size_t> open_nodes = capture.origin->frontier;
  while (!open_nodes.empty()) {
    const std::size_t node = open_nodes.back();
    open_nodes.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    const auto& before = capture.nodes[node].after;
    open_nodes.insert(open_nodes.end(), before.begin(), before.end());
  }
  return std::ranges::all_of(reached, [](bool is) { return is; });
}

}  // namespace

cudaError_t append(Stream& stream, const Command& command) {
  Capture& capture = *stream.capture;
  if (capture.is_invalid) return noted(cudaErrorStreamCaptureInvalidated);
  capture.nodes.push_back({command, stream.frontier});
  stream.frontier = {capture.nodes.size() - 1};
  return cudaSuccess;
}

cudaError_t record_captured(Event& event, const Stream& stream) {
  if (stream.capture->is_invalid) return noted(cudaErrorStreamCaptureInvalidated);
  event.capture = stream.capture;
  event.frontier = stream.frontier;
  return cudaSuccess;
}

cudaError_t join(Stream& stream, const Event& event) {
  if (event.capture == nullptr) {
    invalidate(*stream.capture);
    return noted(cudaErrorStreamCaptureIsolation);
  }
  if (event.capture->is_over) {
    return misuse(cudaErrorInvalidValue,
                  "cudaStreamWaitEvent: the event was recorded in a capture that is over");
  }
  if (event.capture->is_invalid) return noted(cudaErrorStreamCaptureInvalidated);
  if (stream.capture == nullptr) {
    stream.capture = event.capture;
    stream.frontier = event.frontier;
    event.capture->streams.push_back(&stream);
    return cudaSuccess;
  }
  if (stream.capture != event.capture) {
    invalidate(*stream.capture);
    return noted(cudaErrorStreamCaptureMerge);
  }
  unite(stream.frontier, event.frontier);
  return cudaSuccess;
}

void invalidate(Capture& capture) {
  capture.is_invalid = true;
}

cudaError_t refuse_during_capture() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  const std::lock_guard lock(mutex);
  for (Capture* capture : live<Capture>()) {
    const bool is_ours = capture->thread == std::this_thread::get_id();
    if (!is_ours && thread_mode == cudaStreamCaptureModeThreadLocal) continue;
    if (capture->mode == cudaStreamCaptureModeGlobal ||
        (capture->mode == cudaStreamCaptureModeThreadLocal && is_ours)) {
      invalidate(*capture);
      return noted(cudaErrorStreamCaptureUnsupported);
    }
  }
  return cudaSuccess;
}

bool is_blocked_by_capture() {
  const std::lock_guard lock(mutex);
  bool is_blocked = false;
  for (Capture* capture : live<Capture>()) {
    for (const Stream* stream : capture->streams) {
      if ((stream->flags & cudaStreamNonBlocking) != 0) continue;
      invalidate(*capture);
      is_blocked = true;
    }
  }
  return is_blocked;
}

int graphs_left() {
  const std::lock_guard lock(mutex);
  return static_cast<int>(live<CUgraph_st>().size() + live<CUgraphExec_st>().size());
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaStreamBeginCapture", stream));
  if (stream->is_legacy) return noted(cudaErrorStreamCaptureUnsupported);
  if (stream->capture != nullptr)
    return misuse(cudaErrorIllegalState, "cudaStreamBeginCapture: the stream is captured already");
  const auto capture = std::make_shared<Capture>(
      Capture{.origin = stream, .mode = mode, .thread = std::this_thread::get_id()});
  capture->streams.push_back(stream);
  stream->capture = capture;
  stream->frontier.clear();
  const std::lock_guard lock(mutex);
  live<Capture>().insert(capture.get());
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaStreamEndCapture", stream));
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr)
    return misuse(cudaErrorIllegalState, "cudaStreamEndCapture: the stream isn't captured");
  if (capture->origin != stream) {
    invalidate(*capture);
    return noted(cudaErrorStreamCaptureUnmatched);
  }
  if (capture->mode != cudaStreamCaptureModeRelaxed &&
      capture->thread != std::this_thread::get_id())
    return noted(cudaErrorStreamCaptureWrongThread);
  const bool is_whole = is_joined(*capture);
  for (Stream* member : capture->streams) member->capture = nullptr;
  const std::lock_guard lock(mutex);
  live<Capture>().erase(capture.get());
  capture->is_over = true;
  const bool is_invalid = capture->is_invalid;
  if (!is_invalid && is_whole) {
    *graph = new CUgraph_st{std::move(capture->nodes)};
    live<CUgraph_st>().insert(*graph);
  }
  if (is_invalid) return noted(cudaErrorStreamCaptureInvalidated);
  return is_whole ? cudaSuccess : noted(cudaErrorStreamCaptureUnjoined);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(thread_mode, *mode);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaStreamIsCapturing", stream));
  *status = stream->capture == nullptr    ? cudaStreamCaptureStatusNone
            : stream->capture->is_invalid ? cudaStreamCaptureStatusInvalidated
                                          : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long /*flags*/) {
  EMULATION_TRY(open(graph, "cudaGraphInstantiate"));
  *executable = new CUgraphExec_st{graph->nodes};
  const std::lock_guard lock(mutex);
  live<CUgraphExec_st>().insert(*executable);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  EMULATION_TRY(open(executable, "cudaGraphLaunch"));
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaGraphLaunch", stream));
  count(&Counts::graph_launches);
  std::mt19937_64 random(segment().seed + ++executable->launches);
  std::vector<bool> is_submitted(executable->nodes.size(), false);
  for (std::size_t done = 0; done < is_submitted.size(); ++done) {
    std::vector<std::size_t> ready;
    for (std::size_t n = 0; n < is_submitted.size(); ++n) {
      if (!is_submitted[n] && std::ranges::all_of(executable->nodes[n].after,
                                                  [&](std::size_t b) { return is_submitted[b]; }))
        ready.push_back(n);
    }
    const std::size_t next = ready[random() % ready.size()];
    is_submitted[next] = true;
    EMULATION_TRY(submit(*stream, executable->nodes[next].command));
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return destroy(graph, "cudaGraphDestroy");
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return destroy(executable, "cudaGraphExecDestroy");
}

}  // extern "C"
