#pragma once

/// The reduction of N consecutive elements of a block, in the steps that hosts and GPUs share.

#include "device/formats.hpp"

namespace shardmix::device {

/// The sum of `count` >= 1 arrays at elements [begin, begin + N), as a binary tree over the arrays:
/// its left part has the largest power of two below `count`. Partial sums of complete subtrees are
/// held as a binary counter holds ones: `Levels` of them allow 2^Levels arrays.
template <int N, int Levels = 17>
SHARDMIX_HOST_DEVICE void sum_tree(DType dtype, const void* const* sources, int count,
                                   std::int64_t begin, float* total) {
  alignas(64) float held[Levels][N];
  alignas(64) float buffer[N];
  int levels = 0;
  for (int r = 0; r < count; ++r) {
    const float* source = load_values<N>(dtype, sources[r], begin, buffer);
    for_each<N>([&](int i) { total[i] = source[i]; });
    for (int carry = r + 1; carry % 2 == 0; carry /= 2) {
      const float* left = held[--levels];
      for_each<N>([&](int i) { total[i] = left[i] + total[i]; });
    }
    if (r + 1 == count) break;
    float* level = held[levels++];
    for_each<N>([&](int i) { level[i] = total[i]; });
  }
  while (levels > 0) {
    const float* left = held[--levels];
    for_each<N>([&](int i) { total[i] = left[i] + total[i]; });
  }
}

/// The gradient of N elements of an update, where it is: one array's values, or the sum in
/// `buffer`.
template <int N>
[[nodiscard]] SHARDMIX_HOST_DEVICE const float* load_gradient(const UpdateArrays& a,
                                                              std::int64_t begin, float* buffer) {
  if (a.gradient_count == 1) return load_values<N>(a.gradient_dtype, a.gradients[0], begin, buffer);
  static_assert(most_gradients == 4);
  sum_tree<N, 2>(a.gradient_dtype, a.gradients, a.gradient_count, begin, buffer);
  return buffer;
}

/// Adds partial sums from the left, the last one first.
template <int N>
SHARDMIX_HOST_DEVICE void add_partials(const float* const* partials, int count, std::int64_t begin,
                                       float* total) {
  alignas(64) float buffer[N];
  while (count-- > 0) {
    const float* left = values_at<N>(partials[count] + begin, buffer);
    for_each<N>([&](int i) { total[i] = left[i] + total[i]; });
  }
}

/// Whether all of N sums may enter the state.
template <int N>
[[nodiscard]] SHARDMIX_HOST_DEVICE bool are_usable(const float* sums) {
  std::uint32_t bad = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int i = 0; i < N; ++i) bad |= math::is_usable(sums[i]) ? 0u : 1u;
  return bad == 0;
}

/// The sum of N squares as the balanced binary tree over neighbours. Squares of floats are exact in
/// double.
template <int N>
[[nodiscard]] SHARDMIX_HOST_DEVICE double sum_of_squares(const float* values) {
  if constexpr (N == 1) {
    return static_cast<double>(values[0]) * static_cast<double>(values[0]);
  } else {
    alignas(64) double sums[N / 2];
    for_each<N / 2>([&](int i) {
      const double a = values[2 * i];
      const double b = values[2 * i + 1];
      sums[i] = a * a + b * b;
    });
    // The next level lies in the front half of this one.
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int n = N / 4; n > 0; n /= 2) {
      for (int i = 0; i < n; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
    }
    return sums[0];
  }
}

}  // namespace shardmix::device
