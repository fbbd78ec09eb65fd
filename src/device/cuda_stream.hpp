#pragma once

/// A pass over memory that changes nothing, on GPUs.

#include "device/cuda_warps.hpp"

namespace shardmix::device::cuda {

/// A thread moves 16 bytes at a time; `mask` is 0, which the compiler doesn't know.
__global__ void __launch_bounds__(threads_per_block)
    stream_kernel(uint4* data, std::int64_t count, bool written, unsigned mask, unsigned* sink) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  unsigned all = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    uint4 words = data[i];
    if (written) {
      data[i] = {words.x ^ mask, words.y ^ mask, words.z ^ mask, words.w ^ mask};
    } else {
      all |= words.x | words.y | words.z | words.w;
    }
  }
  if (!written && all == mask + 1) *sink = all;
}

}  // namespace shardmix::device::cuda
