#pragma once

/// Stream capture: commands become nodes of a graph, in place of going into a queue.

#include <thread>
#include <vector>

#include "streams.hpp"

namespace emulation {

struct Node {
  Command command;
  std::vector<std::size_t> after;  ///< earlier nodes
};

struct Capture {
  Stream* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread = {};
  bool is_invalid = false;
  bool is_over = false;
  std::vector<Stream*> streams = {};
  std::vector<Node> nodes = {};
};

/// submit() to a stream that is captured.
[[nodiscard]] cudaError_t append(Stream& stream, const Command& command);
[[nodiscard]] cudaError_t record_captured(Event& event, const Stream& stream);
/// A stream waits for an event, one of which is in a capture.
[[nodiscard]] cudaError_t join(Stream& stream, const Event& event);

/// An illegal call: the capture ends with an error.
void invalidate(Capture& capture);
/// For calls that no thread may make while a capture is global, nor its own while it isn't relaxed.
[[nodiscard]] cudaError_t refuse_during_capture();
/// Whether a stream is captured that the legacy stream would have to wait for.
[[nodiscard]] bool is_blocked_by_capture();
[[nodiscard]] int graphs_left();

}  // namespace emulation
