#pragma once

/// The update on GPUs.

#include "device/block_update.hpp"
#include "device/cuda_warps.hpp"
#include "device/quick_roots.hpp"

namespace shardmix::device::cuda {

__device__ inline std::uint32_t warp_largest(std::uint32_t value) {
  return __reduce_max_sync(0xFFFFFFFFu, value);
}

/// A run of a task with its kernel.
template <class Kernel>
struct Run {
  std::int64_t end = 0;  ///< in blocks
  Kernel kernel = {};
};

/// What one launch works on.
inline constexpr int most_runs = 32;
template <class Kernel>
struct UpdateLaunch {
  UpdateArrays arrays;
  std::int64_t begin = 0;  ///< in blocks
  std::int64_t end = 0;
  Run<Kernel> runs[most_runs] = {};
  const UpdateControl* control = nullptr;
};

/// What a kernel is compiled for, beside its rule and the format of its state: without the branches
/// for all others a thread's loads are all under way before it works on the first.
template <DType Parameter, WeightStorage Weights>
struct Format {
  static constexpr DType parameter = Parameter;
  static constexpr WeightStorage weights = Weights;
};

/// A warp looks up the run of each of its blocks. Gradients are read by `launch.arrays`, since
/// their number is known there alone.
template <class Kernel, StateStorage State, class F>
__global__ void __launch_bounds__(threads_per_block, 2)
    update_kernel(const __grid_constant__ UpdateLaunch<Kernel> launch) {
  if (launch.control->skip != 0) return;
  const float scale = launch.control->gradient_scale;
  UpdateArrays a = launch.arrays;
  a.dtype = F::parameter;
  a.weights = F::weights;
  a.state = State;
  a.word_bytes = word_bytes_of(Kernel::kept);
  const int lane = static_cast<int>(threadIdx.x % lanes);
  const int first = lane * own;
  const bool rounds = rounds_parameters(a);
  int r = 0;
  for (std::int64_t block = launch.begin + warp_number(); block < launch.end;
       block += warp_count()) {
    while (block >= launch.runs[r].end) ++r;
    const Kernel& kernel = launch.runs[r].kernel;
    const std::int64_t begin = block * block_elements + first;
    const std::int64_t number = a.first_block + block;
    States<own, State> states;
    typename States<own, State>::Place at;
    alignas(16) float theta_buffer[own];
    float* theta = nullptr;
    math::Largest largest;
    const auto compute = [&](auto roots) {
      at = states.load(a, begin);
      theta = load_weights<own>(a, begin, theta_buffer);
      alignas(16) float g_buffer[own];
      const float* g = load_gradient<own>(launch.arrays, begin, g_buffer);
      if constexpr (State == StateStorage::full)
        states.update(kernel, at, scale, g, theta, roots);
      else
        largest = states.update(kernel, at, scale, g, theta, roots);
      return roots;
    };
    if (!compute(QuickRoots{}).all_in_range()) compute(math::Roots{});
    if constexpr (State == StateStorage::full) {
      states.store(a, begin, at);
    } else {
      largest = {Kernel::kept.m1 ? warp_largest(largest.m1) : 0u,
                 Kernel::kept.m2 ? warp_largest(largest.m2) : 0u,
                 Kernel::kept.v ? warp_largest(largest.v) : 0u};
      states.store(a, begin, largest, math::block_key(a.random.state, number), first);
    }
    alignas(16) std::uint32_t random[own];
    if (rounds) {
      for_each_random<own>(math::block_key(a.random.parameter, number), first,
                           [&](int i, std::uint32_t bits) { random[i] = bits; });
    }
    store_weights<own>(a, begin, theta, random);
  }
}

}  // namespace shardmix::device::cuda
