#pragma once

/// The reduction of N consecutive elements of a block, in the steps that hosts and GPUs share.

#include "device/formats.hpp"

namespace shardmix::device {

/// total = a + b.
template <int N, class Half>
SHARDMIX_HOST_DEVICE void sum_halves(const void* a, const void* b, std::int64_t begin,
                                     float* total) {
  alignas(16) std::uint16_t a_room[N];
  alignas(16) std::uint16_t b_room[N];
  const std::uint16_t* left = values_at<N>(static_cast<const std::uint16_t*>(a) + begin, a_room);
  const std::uint16_t* right = values_at<N>(static_cast<const std::uint16_t*>(b) + begin, b_room);
  for_each<N>([&](int i) { total[i] = Half::widen(left[i]) + Half::widen(right[i]); });
}

template <int N>
SHARDMIX_HOST_DEVICE void sum_pair(DType dtype, const void* a, const void* b, std::int64_t begin,
                                   float* total) {
  if (dtype == DType::bf16) {
    sum_halves<N, Bf16>(a, b, begin, total);
  } else if (dtype == DType::fp16) {
    sum_halves<N, Fp16>(a, b, begin, total);
  } else {
    alignas(16) float a_room[N];
    alignas(16) float b_room[N];
    const float* left = values_at<N>(static_cast<const float*>(a) + begin, a_room);
    const float* right = values_at<N>(static_cast<const float*>(b) + begin, b_room);
    for_each<N>([&](int i) { total[i] = left[i] + right[i]; });
  }
}

/// The sum of `count` >= 1 arrays at elements [begin, begin + N), as a binary tree over the arrays:
/// its left part has the largest power of two below `count`. Partial sums of complete subtrees of
/// pairs are held as a binary counter holds ones: `Levels` of them allow 2^(Levels + 1) arrays.
template <int N, int Levels = 16>
SHARDMIX_HOST_DEVICE void sum_tree(DType dtype, const void* const* sources, int count,
                                   std::int64_t begin, float* total) {
  alignas(64) float held[Levels][N];
  int levels = 0;
  for (int r = 0; r < count; r += 2) {
    if (r + 1 < count) {
      sum_pair<N>(dtype, sources[r], sources[r + 1], begin, total);
    } else {
      alignas(64) float buffer[N];
      const float* source = load_values<N>(dtype, sources[r], begin, buffer);
      for_each<N>([&](int i) { total[i] = source[i]; });
    }
    if (r + 1 < count) {
      for (int carry = r / 2 + 1; carry % 2 == 0; carry /= 2) {
        const float* left = held[--levels];
        for_each<N>([&](int i) { total[i] = left[i] + total[i]; });
      }
    }
    if (r + 2 >= count) break;
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
  sum_tree<N, 1>(a.gradient_dtype, a.gradients, a.gradient_count, begin, buffer);
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
  std::uint32_t largest = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int i = 0; i < N; ++i) {
    const std::uint32_t bits = math::magnitude_bits(sums[i]);
    largest = bits > largest ? bits : largest;
  }
  // As numbers, but for a nan, whose bits are above those of all others.
  return largest <= math::bits_from_float(math::largest_gradient);
}

/// The sum of N numbers, added in halves: i and i + N/2, and so on; takes the array's room.
template <int N>
[[nodiscard]] SHARDMIX_HOST_DEVICE double sum_of_halves(double* sums) {
  if constexpr (N > 1) {
    for_each<N / 2>([&](int i) { sums[i] += sums[i + N / 2]; });
    return sum_of_halves<N / 2>(sums);
  }
  return sums[0];
}

/// A block's squares are added in double, which holds each exactly: rows of 32 as a balanced tree
/// for each column; each eight columns in halves; and their four sums as a balanced tree. A host
/// adds rows, and a warp, of which four lanes hold a row, adds lanes.
inline constexpr int square_columns = 32;

/// On a host.
[[nodiscard]] SHARDMIX_HOST_DEVICE double sum_of_squares(const float* block) {
  constexpr int n = square_columns;
  static_assert(math::block_elements == 8 * n);
  alignas(64) double pairs[4][n];
  for (int p = 0; p < 4; ++p) {
    const float* row = block + 2 * p * n;
    for_each<n>([&](int i) {
      const double a = row[i];
      const double b = row[i + n];
      pairs[p][i] = a * a + b * b;
    });
  }
  alignas(64) double columns[n];
  for_each<n>(
      [&](int i) { columns[i] = (pairs[0][i] + pairs[1][i]) + (pairs[2][i] + pairs[3][i]); });
  return (sum_of_halves<8>(columns) + sum_of_halves<8>(columns + 8)) +
         (sum_of_halves<8>(columns + 16) + sum_of_halves<8>(columns + 24));
}

}  // namespace shardmix::device
