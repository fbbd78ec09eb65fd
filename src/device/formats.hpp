#pragma once

/// How values lie in memory: the one place where dtypes, kinds of master weights and state formats
/// are told apart.
///
/// Functions work on N consecutive elements at once: a block on a host, eight in a thread of a GPU.
/// They are loops over lanes of 32 bits; conversions from and to narrower ones are loops of their
/// own, since a compiler turns a loop of mixed widths into many short vectors. On a host, fp32
/// values are worked on where they lie, and on a GPU in registers: so what loads takes a buffer,
/// and returns where the values are.

#include <cstdint>
#include <type_traits>

#include "device/device.hpp"
#include "math/bfloat16.hpp"
#include "math/block.hpp"
#include "math/float16.hpp"
#include "math/qualifiers.hpp"

namespace shardmix::device {

/// Calls f(i) for each i below N.
template <int N, class F>
SHARDMIX_HOST_DEVICE void for_each(const F& f) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#else
#pragma GCC ivdep
#endif
  for (int i = 0; i < N; ++i) f(i);
}

/// Calls f(i, random bits of element `first` + i of a block) for each i below N, which is the block
/// or at most a half of it.
template <int N, class F>
SHARDMIX_HOST_DEVICE void for_each_random(std::uint32_t block_key, int first, const F& f) {
  constexpr int half = math::block_elements / 2;
  constexpr int own = N < half ? N : half;
  const bool is_second = first >= half;
  for_each<own>([&](int i) {
    const std::uint32_t random =
        math::random_bits(block_key, static_cast<std::uint32_t>((first + i) % half));
    f(i, is_second ? math::second_half(random) : random);
    if constexpr (N > half) f(i + half, math::second_half(random));
  });
}

// On a GPU memory is read and written in accesses of 16 bytes (8 where eight values are no more),
// said by intrinsics: compilers took stores apart. They pass by the cache of the multiprocessor
// (`cg`), which is faster than to tell all caches that nothing is used again (`cs`).

/// Copies N values from memory to a buffer of this thread.
template <int N, class T>
SHARDMIX_HOST_DEVICE void fetch(const T* memory, T* buffer) {
#if defined(__CUDA_ARCH__)
  if constexpr (N * sizeof(T) % 16 == 0) {
    for_each<N * sizeof(T) / 16>([&](int i) {
      reinterpret_cast<uint4*>(buffer)[i] = __ldcg(reinterpret_cast<const uint4*>(memory) + i);
    });
  } else {
    static_assert(N * sizeof(T) == 8);
    *reinterpret_cast<uint2*>(buffer) = __ldcg(reinterpret_cast<const uint2*>(memory));
  }
#else
  for_each<N>([&](int i) { buffer[i] = memory[i]; });
#endif
}

/// The inverse.
template <int N, class T>
SHARDMIX_HOST_DEVICE void store(const T* buffer, T* memory) {
#if defined(__CUDA_ARCH__)
  if constexpr (N * sizeof(T) % 16 == 0) {
    for_each<N * sizeof(T) / 16>([&](int i) {
      __stcg(reinterpret_cast<uint4*>(memory) + i, reinterpret_cast<const uint4*>(buffer)[i]);
    });
  } else {
    static_assert(N * sizeof(T) == 8);
    __stcg(reinterpret_cast<uint2*>(memory), *reinterpret_cast<const uint2*>(buffer));
  }
#else
  for_each<N>([&](int i) { memory[i] = buffer[i]; });
#endif
}

/// Where the N values at `memory` are: there, or in `buffer` on a GPU.
template <int N, class T>
SHARDMIX_HOST_DEVICE T* values_at(T* memory, [[maybe_unused]] std::remove_const_t<T>* buffer) {
#if defined(__CUDA_ARCH__)
  fetch<N>(static_cast<const T*>(memory), buffer);
  return buffer;
#else
  return memory;
#endif
}

/// Where values for `memory` are to be written before put_back(): there, or in `buffer` on a GPU.
template <class T>
SHARDMIX_HOST_DEVICE T* room_at([[maybe_unused]] T* memory, [[maybe_unused]] T* buffer) {
#if defined(__CUDA_ARCH__)
  return buffer;
#else
  return memory;
#endif
}

/// Puts N values that are where values_at() or room_at() said back to `memory`.
template <int N, class T>
SHARDMIX_HOST_DEVICE void put_back([[maybe_unused]] const T* from, [[maybe_unused]] T* memory) {
#if defined(__CUDA_ARCH__)
  store<N>(from, memory);
#endif
}

/// N integers of 8 or 16 bits from memory, one in a lane of 32 bits.
template <int N, class Narrow>
SHARDMIX_HOST_DEVICE void load_lanes(const Narrow* from, std::uint32_t* to) {
#if defined(__CUDA_ARCH__)
  alignas(16) Narrow narrow[N];
  fetch<N>(from, narrow);
  for_each<N>([&](int i) { to[i] = static_cast<std::uint32_t>(narrow[i]); });
#else
  for_each<N>([&](int i) { to[i] = static_cast<std::uint32_t>(from[i]); });
#endif
}

/// The inverse: stores the lower bits of N lanes.
template <int N, class Narrow>
SHARDMIX_HOST_DEVICE void store_lanes(const std::uint32_t* from, Narrow* to) {
#if defined(__CUDA_ARCH__)
  alignas(16) Narrow narrow[N];
  for_each<N>([&](int i) { narrow[i] = static_cast<Narrow>(from[i]); });
  store<N>(narrow, to);
#else
  for_each<N>([&](int i) { to[i] = static_cast<Narrow>(from[i]); });
#endif
}

struct Bf16 {
  SHARDMIX_HOST_DEVICE static float widen(std::uint32_t bits) {
    return math::float_from_bf16(bits);
  }
  SHARDMIX_HOST_DEVICE static std::uint32_t narrow(float value) { return math::bf16_bits(value); }
  SHARDMIX_HOST_DEVICE static std::uint32_t narrow(float value, std::uint32_t random) {
    return math::bf16_bits(value, random);
  }
};

struct Fp16 {
  SHARDMIX_HOST_DEVICE static float widen(std::uint32_t bits) {
    return math::float_from_fp16(bits);
  }
  SHARDMIX_HOST_DEVICE static std::uint32_t narrow(float value) { return math::fp16_bits(value); }
  SHARDMIX_HOST_DEVICE static std::uint32_t narrow(float value, std::uint32_t random) {
    return math::fp16_bits(value, random);
  }
};

template <int N, class Half>
SHARDMIX_HOST_DEVICE float* widen_halves(const std::uint16_t* from, float* buffer) {
  alignas(16) std::uint16_t room[N];
  const std::uint16_t* bits = values_at<N>(from, room);
  for_each<N>([&](int i) { buffer[i] = Half::widen(bits[i]); });
  return buffer;
}

/// N values of any dtype as fp32, from element `begin` on.
template <int N>
SHARDMIX_HOST_DEVICE const float* load_values(DType dtype, const void* from, std::int64_t begin,
                                              float* buffer) {
  if (dtype == DType::fp32) return values_at<N>(static_cast<const float*>(from) + begin, buffer);
  const auto* halves = static_cast<const std::uint16_t*>(from) + begin;
  return dtype == DType::bf16 ? widen_halves<N, Bf16>(halves, buffer)
                              : widen_halves<N, Fp16>(halves, buffer);
}

/// The fp32 weights of N elements.
template <int N>
SHARDMIX_HOST_DEVICE float* load_weights(const UpdateArrays& a, std::int64_t begin, float* buffer) {
  if (a.dtype == DType::fp32) return values_at<N>(static_cast<float*>(a.parameter) + begin, buffer);
  if (a.weights == WeightStorage::master)
    return values_at<N>(static_cast<float*>(a.master) + begin, buffer);
  const auto* parameters = static_cast<const std::uint16_t*>(a.parameter) + begin;
  if (a.weights == WeightStorage::remainder) {
    alignas(16) std::uint16_t parameter_room[N];
    alignas(16) std::uint16_t remainder_room[N];
    const std::uint16_t* parameter = values_at<N>(parameters, parameter_room);
    const std::uint16_t* remainder =
        values_at<N>(static_cast<const std::uint16_t*>(a.master) + begin, remainder_room);
    for_each<N>([&](int i) { buffer[i] = math::weight_from(parameter[i], remainder[i]); });
    return buffer;
  }
  return a.dtype == DType::bf16 ? widen_halves<N, Bf16>(parameters, buffer)
                                : widen_halves<N, Fp16>(parameters, buffer);
}

/// Puts a parameter's N values that are where room_at() said to their place and to all copies.
template <int N, class T>
SHARDMIX_HOST_DEVICE void put_everywhere(const T* from, const UpdateArrays& a, std::int64_t begin) {
  put_back<N>(from, static_cast<T*>(a.parameter) + begin);
  for_each<most_copies>([&](int c) {
    if (c < a.copy_count) store<N>(from, static_cast<T*>(a.copies[c]) + begin);
  });
}

template <int N, class Half>
SHARDMIX_HOST_DEVICE void narrow_halves(const UpdateArrays& a, std::int64_t begin,
                                        const float* from, bool stochastic,
                                        const std::uint32_t* random) {
  alignas(16) std::uint16_t room[N];
  std::uint16_t* bits = room_at(static_cast<std::uint16_t*>(a.parameter) + begin, room);
  if (stochastic) {
    for_each<N>([&](int i) {
      bits[i] = static_cast<std::uint16_t>(Half::narrow(from[i], random[i] >> 16));
    });
  } else {
    for_each<N>([&](int i) { bits[i] = static_cast<std::uint16_t>(Half::narrow(from[i])); });
  }
  put_everywhere<N>(bits, a, begin);
}

/// Whether parameters are rounded stochastically: those without master.
[[nodiscard]] SHARDMIX_HOST_DEVICE bool rounds_parameters(const UpdateArrays& a) {
  return a.weights == WeightStorage::parameter && a.dtype != DType::fp32;
}

/// Stores weights that came from load_weights(), and the parameters and their copies: the nearest,
/// or by `random`, a word an element.
template <int N>
SHARDMIX_HOST_DEVICE void store_weights(const UpdateArrays& a, std::int64_t begin,
                                        const float* from, const std::uint32_t* random) {
  if (a.dtype == DType::fp32) {
    put_everywhere<N>(from, a, begin);
    return;
  }
  if (a.dtype == DType::bf16) {
    narrow_halves<N, Bf16>(a, begin, from, rounds_parameters(a), random);
  } else {
    narrow_halves<N, Fp16>(a, begin, from, rounds_parameters(a), random);
  }
  if (a.weights == WeightStorage::master) {
    put_back<N>(from, static_cast<float*>(a.master) + begin);
  } else if (a.weights == WeightStorage::remainder) {
    alignas(16) std::uint16_t room[N];
    auto* remainders = static_cast<std::uint16_t*>(a.master) + begin;
    std::uint16_t* remainder = room_at(remainders, room);
    for_each<N>(
        [&](int i) { remainder[i] = static_cast<std::uint16_t>(math::remainder_of(from[i])); });
    put_back<N>(remainder, remainders);
  }
}

/// N fp32 values of a state, zeros where it isn't kept.
template <int N>
SHARDMIX_HOST_DEVICE float* load_state(float* state, std::int64_t begin, float* buffer) {
  if (state != nullptr) return values_at<N>(state + begin, buffer);
  for_each<N>([&](int i) { buffer[i] = 0.0f; });
  return buffer;
}

template <int N>
SHARDMIX_HOST_DEVICE void store_state(float* state, std::int64_t begin, const float* from) {
  if (state != nullptr) put_back<N>(from, state + begin);
}

template <int N, class Narrow, int Shift>
SHARDMIX_HOST_DEVICE void widen_words(const void* from, std::int64_t begin, std::uint32_t* to) {
  load_lanes<N>(static_cast<const Narrow*>(from) + begin, to);
  for_each<N>([&](int i) { to[i] <<= Shift; });
}

template <int N, class Narrow, int Shift>
SHARDMIX_HOST_DEVICE void narrow_words(const std::uint32_t* from, std::int64_t begin, void* to) {
  alignas(64) std::uint32_t lanes[N];
  for_each<N>([&](int i) { lanes[i] = from[i] >> Shift; });
  store_lanes<N>(lanes, static_cast<Narrow*>(to) + begin);
}

/// Where the words of N elements in compact state are to be stored: in memory, or in `buffer`.
template <int N>
SHARDMIX_HOST_DEVICE std::uint32_t* words_at(const UpdateArrays& a,
                                             [[maybe_unused]] std::int64_t begin,
                                             std::uint32_t* buffer) {
#if !defined(__CUDA_ARCH__)
  if (a.word_bytes == 4) return static_cast<std::uint32_t*>(a.words) + begin;
#endif
  return buffer;
}

/// The words of N elements in compact state, where words_at() says.
template <int N>
SHARDMIX_HOST_DEVICE const std::uint32_t* load_words(const UpdateArrays& a, std::int64_t begin,
                                                     std::uint32_t* buffer) {
  if (a.word_bytes == 4)
    return values_at<N>(static_cast<const std::uint32_t*>(a.words) + begin, buffer);
  if (a.word_bytes == 2) {
    widen_words<N, std::uint16_t, 16>(a.words, begin, buffer);
  } else {
    widen_words<N, std::uint8_t, 24>(a.words, begin, buffer);
  }
  return buffer;
}

/// Stores words that are where words_at() said.
template <int N>
SHARDMIX_HOST_DEVICE void store_words(const UpdateArrays& a, std::int64_t begin,
                                      const std::uint32_t* from) {
  if (a.word_bytes == 4) {
    put_back<N>(from, static_cast<std::uint32_t*>(a.words) + begin);
  } else if (a.word_bytes == 2) {
    narrow_words<N, std::uint16_t, 16>(from, begin, a.words);
  } else {
    narrow_words<N, std::uint8_t, 24>(from, begin, a.words);
  }
}

}  // namespace shardmix::device
