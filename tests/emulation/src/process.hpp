#pragma once

/// The pair of processes: the host's, which calls CUDA, and the device's, in which kernels run. It
/// is forked before main and ends with the host's.

#include <cstdint>

#include "segment.hpp"

namespace emulation {

[[nodiscard]] bool in_device_process();
/// Whether this process has a device process: not so in a child that the host forked.
[[nodiscard]] bool is_host();

/// Host, before it ends by an error: leaves no process behind.
void end_device_process();

/// A number from the environment, or `otherwise`.
[[nodiscard]] std::int64_t setting(const char* name, std::int64_t otherwise);

/// The path of a file of another process: "/proc/PID/fd/N".
struct FilePath {
  char text[64];
};
[[nodiscard]] FilePath file_path(int process, int descriptor);
/// The number of the segment's descriptor in every host process.
[[nodiscard]] int segment_descriptor();

}  // namespace emulation
