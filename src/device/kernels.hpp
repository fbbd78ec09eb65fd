#pragma once

/// What a kernel does with one element or one row: shared by the host's loops and CUDA's threads.

#include <cstdint>
#include <variant>

#include "device/device.hpp"
#include "math/bfloat16.hpp"
#include "math/block.hpp"
#include "math/qualifiers.hpp"

namespace shardmix::device {

SHARDMIX_HOST_DEVICE float to_float(float value) {
  return value;
}
SHARDMIX_HOST_DEVICE float to_float(std::uint16_t value) {
  return math::float_from_bf16(value);
}

/// The fp32 parameter is the weight.
struct Fp32Weights {
  float* parameter;

  SHARDMIX_HOST_DEVICE float load(std::int64_t i) const { return parameter[i]; }
  SHARDMIX_HOST_DEVICE void store(std::int64_t i, float weight) const { parameter[i] = weight; }
};

struct Bf16Fp32MasterWeights {
  std::uint16_t* parameter;
  float* master;

  SHARDMIX_HOST_DEVICE float load(std::int64_t i) const { return master[i]; }
  SHARDMIX_HOST_DEVICE void store(std::int64_t i, float weight) const {
    master[i] = weight;
    parameter[i] = math::bf16_from_float(weight);
  }
};

struct Bf16RemainderWeights {
  std::uint16_t* parameter;
  std::uint16_t* remainder;

  SHARDMIX_HOST_DEVICE float load(std::int64_t i) const {
    return math::weight_from(parameter[i], remainder[i]);
  }
  SHARDMIX_HOST_DEVICE void store(std::int64_t i, float weight) const {
    remainder[i] = math::remainder_of(weight);
    parameter[i] = math::bf16_from_float(weight);
  }
};

/// The state of a run of elements; m1 or m2 may be null where the kernel has none.
struct StatePointers {
  float* m1;
  float* m2;
  float* v;
};

template <class Kernel, class Weights>
SHARDMIX_HOST_DEVICE void update_element(const Kernel& kernel, const Weights& weights, float scale,
                                         const float* gradient, const StatePointers& state,
                                         std::int64_t i) {
  float m1 = 0.0f;
  float m2 = 0.0f;
  if constexpr (Kernel::has_m1) m1 = state.m1[i];
  if constexpr (Kernel::has_m2) m2 = state.m2[i];
  float v = state.v[i];
  weights.store(i, kernel(gradient[i] * scale, weights.load(i), m1, m2, v));
  if constexpr (Kernel::has_m1) state.m1[i] = m1;
  if constexpr (Kernel::has_m2) state.m2[i] = m2;
  state.v[i] = v;
}

/// The left half of the fixed binary tree over n terms: the largest power of two below n.
SHARDMIX_HOST_DEVICE int left_terms(int n) {
  int left = 1;
  while (2 * left < n) left *= 2;
  return left;
}

/// Calls `launch(kernel, weights)` with the types that the task names: the one place where they are
/// told apart.
template <class Launch>
void dispatch(const UpdateTask& task, const Launch& launch) {
  auto* half = static_cast<std::uint16_t*>(task.parameter);
  std::visit(
      [&](const auto& kernel) {
        switch (task.storage) {
          case WeightStorage::fp32:
            return launch(kernel, Fp32Weights{static_cast<float*>(task.parameter)});
          case WeightStorage::bf16_fp32_master:
            return launch(kernel, Bf16Fp32MasterWeights{half, static_cast<float*>(task.master)});
          case WeightStorage::bf16_remainder:
            return launch(kernel,
                          Bf16RemainderWeights{half, static_cast<std::uint16_t*>(task.master)});
        }
      },
      task.kernel);
}

}  // namespace shardmix::device
