#include "counting.hpp"

#include <algorithm>
#include <mutex>

#include "arena.hpp"
#include "errors.hpp"
#include "process.hpp"

namespace emulation {
namespace {

std::mutex mutex;
Counts all;
Counts marked;
std::int64_t held[most_devices];
std::int64_t most[most_devices];
std::int64_t total = -1;

constexpr std::int64_t Counts::*fields[] = {
    &Counts::launches,       &Counts::copies,         &Counts::copied_bytes,
    &Counts::memsets,        &Counts::host_waits,     &Counts::event_waits,
    &Counts::host_functions, &Counts::graph_launches, &Counts::allocations};
static_assert(sizeof(Counts) == sizeof(fields) / sizeof(fields[0]) * sizeof(std::int64_t));

}  // namespace

void count(std::int64_t Counts::*what, std::int64_t by) {
  const std::lock_guard lock(mutex);
  all.*what += by;
}

Counts counts() {
  const std::lock_guard lock(mutex);
  Counts since = all;
  for (const auto field : fields) since.*field -= marked.*field;
  return since;
}

void mark() {
  const std::lock_guard lock(mutex);
  marked = all;
}

std::int64_t total_memory() {
  if (total < 0) total = setting("EMULATION_MEMORY_GIB", 80) << 30;
  return total;
}

bool take_memory(int device, std::int64_t bytes) {
  const std::lock_guard lock(mutex);
  if (held[device] + bytes > total_memory()) return false;
  held[device] += bytes;
  most[device] = std::max(most[device], held[device]);
  ++all.allocations;
  return true;
}

void give_memory(int device, std::int64_t bytes) {
  const std::lock_guard lock(mutex);
  held[device] -= bytes;
}

std::int64_t bytes_allocated(int device) {
  return held[device];
}
std::int64_t most_bytes_allocated(int device) {
  return most[device];
}
void reset_most() {
  std::copy_n(held, most_devices, most);
}
std::int64_t bytes_touched() {
  return touched_bytes();
}

void set_seed(std::uint64_t seed) {
  segment().seed = seed;
}
void set_delay(int microseconds) {
  segment().delay_us = static_cast<std::uint32_t>(std::max(microseconds, 0));
}
void set_total_memory(std::int64_t bytes) {
  total = bytes;
}

}  // namespace emulation
