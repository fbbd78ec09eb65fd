#pragma once

/// The update of N consecutive elements of a block, in the steps that hosts (N is the block) and
/// GPUs (N is a thread's part) share.

#include "device/block_reduce.hpp"
#include "device/formats.hpp"

namespace shardmix::device {

/// The state of N elements, each with room for itself: load(), apply(), store().
template <int N, StateStorage Storage>
struct States;

template <int N>
struct States<N, StateStorage::full> {
  alignas(64) float m1_buffer[N];
  alignas(64) float m2_buffer[N];
  alignas(64) float v_buffer[N];

  /// The rule on N elements: `g` is the gradient before scaling, `theta` becomes the new weights.
  template <class Kernel>
  SHARDMIX_HOST_DEVICE void update(const Kernel& kernel, const UpdateArrays& a, std::int64_t begin,
                                   float gradient_scale, const float* g, float* theta) {
    float* m1 = load_state<N>(a.m1, begin, m1_buffer);
    float* m2 = load_state<N>(a.m2, begin, m2_buffer);
    float* v = load_state<N>(a.v, begin, v_buffer);
    for_each<N>([&](int i) {
      math::Moments s{m1[i], m2[i], v[i]};
      theta[i] = kernel(g[i] * gradient_scale, theta[i], s);
      m1[i] = s.m1;
      m2[i] = s.m2;
      v[i] = s.v;
    });
    store_state<N>(a.m1, begin, m1);
    store_state<N>(a.m2, begin, m2);
    store_state<N>(a.v, begin, v);
  }
};

/// The scales of a block are known when all of it was updated: then it is gone over again, in
/// memory that is near.
template <int N>
struct States<N, StateStorage::compact> {
  alignas(64) std::uint32_t buffer[N];
  alignas(64) float m1[N];
  alignas(64) float m2[N];
  alignas(64) float v[N];

  /// As above, without storing the state. Returns the largest magnitudes of the new state.
  template <class Kernel>
  [[nodiscard]] SHARDMIX_HOST_DEVICE math::Largest update(const Kernel& kernel,
                                                          const UpdateArrays& a, std::int64_t begin,
                                                          float gradient_scale, const float* g,
                                                          float* theta) {
    const std::uint32_t* words = load_words<N>(a, begin, buffer);
    const math::BlockScales scales = a.scales[begin / math::block_elements];
    math::Largest largest;
    for_each<N>([&](int i) {
      math::Moments s = math::unpacked(words[i], scales);
      theta[i] = kernel(g[i] * gradient_scale, theta[i], s);
      m1[i] = s.m1;
      m2[i] = s.m2;
      v[i] = s.v;
      largest.m1 = larger(largest.m1, math::magnitude_bits(s.m1));
      largest.m2 = larger(largest.m2, math::magnitude_bits(s.m2));
      largest.v = larger(largest.v, math::bits_from_float(s.v));
    });
    return largest;
  }

  /// `largest` is that of the whole block, `first` the number of the first element in it.
  SHARDMIX_HOST_DEVICE void store(const UpdateArrays& a, std::int64_t begin,
                                  const math::Largest& largest, std::uint32_t block_key,
                                  int first) {
    const math::BlockScales scales = math::scales_for(largest);
    const math::BlockScales inverses = math::inverse(scales);
    std::uint32_t* words = words_at<N>(a, begin, buffer);
    for_each_random<N>(block_key, first, [&](int i, std::uint32_t random) {
      words[i] = math::packed({m1[i], m2[i], v[i]}, inverses, random);
    });
    store_words<N>(a, begin, words);
    a.scales[begin / math::block_elements] = scales;
  }

 private:
  SHARDMIX_HOST_DEVICE static std::uint32_t larger(std::uint32_t a, std::uint32_t b) {
    return a > b ? a : b;
  }
};

}  // namespace shardmix::device
