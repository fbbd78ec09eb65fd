#pragma once

/// How kernels cut their work: a warp works on a block, each thread on eight of its elements. What
/// a kernel needs beside its arrays comes with the launch.

#include <cuda_runtime.h>

#include <cstdint>

#include "math/block.hpp"

namespace shardmix::device::cuda {

using math::block_elements;

inline constexpr int threads_per_block = 256;
inline constexpr int lanes = 32;
/// Elements of a block that a thread works on: 16 bytes of a 16-bit array. A warp is a block.
inline constexpr int own = block_elements / lanes;

/// The number of this thread's warp in the grid, and of all warps.
__device__ inline std::int64_t warp_number() {
  return (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;
}
__device__ inline std::int64_t warp_count() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x / lanes;
}

}  // namespace shardmix::device::cuda
