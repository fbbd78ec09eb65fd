#pragma once

/// What tests may ask about: counts of what happened, and memory that is held.

#include <atomic>

#include "emulation.hpp"

namespace emulation {

void count(std::int64_t Counts::*what, std::int64_t by = 1);

/// Whether `bytes` more fit on a device; if so they are counted.
[[nodiscard]] bool take_memory(int device, std::int64_t bytes);
void give_memory(int device, std::int64_t bytes);
[[nodiscard]] std::int64_t total_memory();

}  // namespace emulation
