#pragma once

/// The update of N consecutive elements of a block, in the steps that hosts (N is the block) and
/// GPUs (N is a thread's part) share.

#include "device/block_reduce.hpp"
#include "device/formats.hpp"

namespace shardmix::device {

/// The state of N elements, with room for it: load(), update(), store().
template <int N, StateStorage Storage>
class States;

template <int N>
class States<N, StateStorage::full> {
 public:
  /// Where the values are: in memory on a host, in the room on a GPU.
  struct Place {
    float* m1;
    float* m2;
    float* v;
  };

  [[nodiscard]] SHARDMIX_HOST_DEVICE Place load(const UpdateArrays& a, std::int64_t begin) {
    return {load_state<N>(a.m1, begin, m1_), load_state<N>(a.m2, begin, m2_),
            load_state<N>(a.v, begin, v_)};
  }

  /// The rule on N elements: `g` is the gradient before scaling, `theta` becomes the new weights.
  template <class Kernel, class Roots>
  SHARDMIX_HOST_DEVICE static void update(const Kernel& kernel, const Place& at,
                                          float gradient_scale, const float* g, float* theta,
                                          Roots& roots) {
    for_each<N>([&](int i) {
      math::Moments s{at.m1[i], at.m2[i], at.v[i]};
      theta[i] = kernel(g[i] * gradient_scale, theta[i], s, roots);
      at.m1[i] = s.m1;
      at.m2[i] = s.m2;
      at.v[i] = s.v;
    });
  }

  SHARDMIX_HOST_DEVICE static void store(const UpdateArrays& a, std::int64_t begin,
                                         const Place& at) {
    store_state<N>(a.m1, begin, at.m1);
    store_state<N>(a.m2, begin, at.m2);
    store_state<N>(a.v, begin, at.v);
  }

 private:
  alignas(64) float m1_[N];
  alignas(64) float m2_[N];
  alignas(64) float v_[N];
};

/// The scales of a block are known when all of it was updated: then it is gone over again, in
/// memory that is near.
template <int N>
class States<N, StateStorage::compact> {
 public:
  struct Place {
    const std::uint32_t* words;
    math::BlockScales scales;
  };

  [[nodiscard]] SHARDMIX_HOST_DEVICE Place load(const UpdateArrays& a, std::int64_t begin) {
    return {load_words<N>(a, begin, buffer_), a.scales[begin / math::block_elements]};
  }

  /// As above. Returns the largest magnitudes of the new state.
  template <class Kernel, class Roots>
  [[nodiscard]] SHARDMIX_HOST_DEVICE math::Largest update(const Kernel& kernel, const Place& at,
                                                          float gradient_scale, const float* g,
                                                          float* theta, Roots& roots) {
    constexpr RuleStates kept = Kernel::kept;
    math::Largest largest;
    for_each<N>([&](int i) {
      math::Moments s = math::unpacked(at.words[i], at.scales);
      theta[i] = kernel(g[i] * gradient_scale, theta[i], s, roots);
      m1_[i] = kept.m1 ? s.m1 : 0.0f;
      m2_[i] = kept.m2 ? s.m2 : 0.0f;
      v_[i] = kept.v ? s.v : 0.0f;
      largest.m1 = larger(largest.m1, math::magnitude_bits(m1_[i]));
      largest.m2 = larger(largest.m2, math::magnitude_bits(m2_[i]));
      largest.v = larger(largest.v, math::bits_from_float(v_[i]));
    });
    return largest;
  }

  /// `largest` is that of the whole block, `first` the number of the first element in it.
  SHARDMIX_HOST_DEVICE void store(const UpdateArrays& a, std::int64_t begin,
                                  const math::Largest& largest, std::uint32_t block_key,
                                  int first) {
    const math::BlockScales scales = math::scales_for(largest);
    const math::BlockScales inverses = math::inverse(scales);
    std::uint32_t* words = words_at<N>(a, begin, buffer_);
    for_each_random<N>(block_key, first, [&](int i, std::uint32_t random) {
      words[i] = math::packed({m1_[i], m2_[i], v_[i]}, inverses, random);
    });
    store_words<N>(a, begin, words);
    a.scales[begin / math::block_elements] = scales;
  }

 private:
  SHARDMIX_HOST_DEVICE static std::uint32_t larger(std::uint32_t a, std::uint32_t b) {
    return a > b ? a : b;
  }

  alignas(64) std::uint32_t buffer_[N];
  alignas(64) float m1_[N];
  alignas(64) float m2_[N];
  alignas(64) float v_[N];
};

}  // namespace shardmix::device
