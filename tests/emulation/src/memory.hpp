#pragma once

#include "emulated/api.hpp"
#include "segment.hpp"

namespace emulation {

/// Memory of a kind on the current device, there at once. Only cudaMalloc's, which needn't begin
/// with a page, can be exported to other processes.
[[nodiscard]] cudaError_t allocate(Kind kind, void** memory, std::size_t bytes, bool begins_page);
/// Waits for the device and takes memory of one of two kinds away.
[[nodiscard]] cudaError_t release(void* memory, const char* call, Kind kind, Kind other);
/// How many other processes have an allocation open.
[[nodiscard]] int importers_of(const Allocation& exported);

}  // namespace emulation
