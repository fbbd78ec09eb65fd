#pragma once

/// What tests ask of the stand-in for CUDA, beside CUDA's own functions.

#include <cstdint>

namespace emulation {

/// What happened in this process since it began, or since mark().
struct Counts {
  std::int64_t launches = 0;
  std::int64_t copies = 0;
  std::int64_t copied_bytes = 0;
  std::int64_t memsets = 0;
  std::int64_t host_waits = 0;   ///< calls that waited for a stream, an event or the device
  std::int64_t event_waits = 0;  ///< of streams
  std::int64_t host_functions = 0;
  std::int64_t graph_launches = 0;
  std::int64_t allocations = 0;  ///< of device memory
};
[[nodiscard]] Counts counts();
void mark();

/// Device memory that is held now, and most of it since the start or reset_most().
[[nodiscard]] std::int64_t bytes_allocated(int device = 0);
[[nodiscard]] std::int64_t most_bytes_allocated(int device = 0);
void reset_most();
/// Bytes of the device's memory that have pages in this machine's memory.
[[nodiscard]] std::int64_t bytes_touched();

/// From now on: see README.md for the variables of the environment that begin with them.
void set_seed(std::uint64_t seed);
void set_delay(int microseconds);
void set_total_memory(std::int64_t bytes);
void set_strict(bool is_strict);

}  // namespace emulation
