#pragma once

/// What the lanes of a warp do together.

#include <concepts>
#include <cstring>
#include <type_traits>

#include "emulated/kernel.hpp"

namespace emulation {

enum class Exchange : unsigned char {
  sync,
  shuffle,      ///< `argument` is the source's lane in the segment
  shuffle_xor,  ///< `argument` is the mask of lanes
  shuffle_up,   ///< `argument` is the distance
  shuffle_down,
  ballot,  ///< the value is a predicate
  reduce,  ///< by `combine`
};

/// What a lane brings to an exchange.
struct Offer {
  Exchange kind = Exchange::sync;
  unsigned mask = 0;
  int argument = 0;
  int width = 32;
  int bytes = 0;  ///< of the value
  std::uint64_t value = 0;
  Place place;
  std::uint64_t (*combine)(std::uint64_t, std::uint64_t) = nullptr;
};

/// Waits for all lanes of the mask. Returns what this lane gets; ballots: whose predicate is true.
std::uint64_t exchange(const Offer& offer);
unsigned lane_mask();  ///< of the lanes that have not ended

template <class T>
T shuffled(Exchange kind, unsigned mask, T value, int argument, int width, const Place& place) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "shuffles take numbers of 32 and 64 bits");
  Offer offer{kind, mask, argument, width, sizeof(T), 0, place};
  std::memcpy(&offer.value, &value, sizeof(T));
  const std::uint64_t result = exchange(offer);
  std::memcpy(&value, &result, sizeof(T));
  return value;
}

template <class T, class Combine>
T reduced(unsigned mask, T value, Combine, const Place& place) {
  static_assert(sizeof(T) == 4, "reductions take numbers of 32 bits");
  Offer offer{Exchange::reduce, mask, 0, 32, 4, static_cast<std::uint32_t>(value), place};
  offer.combine = [](std::uint64_t a, std::uint64_t b) -> std::uint64_t {
    return static_cast<std::uint32_t>(Combine{}(static_cast<T>(a), static_cast<T>(b)));
  };
  return static_cast<T>(exchange(offer));
}

}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, EMULATED_PLACE()) {
  emulation::exchange({emulation::Exchange::sync, mask, 0, 32, 0, 0, {"__syncwarp", file, line}});
}
inline unsigned __activemask() {
  return emulation::lane_mask();
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATED_PLACE()) {
  return emulation::shuffled(emulation::Exchange::shuffle, mask, value, source, width,
                             {"__shfl_sync", file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATED_PLACE()) {
  return emulation::shuffled(emulation::Exchange::shuffle_xor, mask, value, lanes, width,
                             {"__shfl_xor_sync", file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_PLACE()) {
  return emulation::shuffled(emulation::Exchange::shuffle_up, mask, value, static_cast<int>(delta),
                             width, {"__shfl_up_sync", file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_PLACE()) {
  return emulation::shuffled(emulation::Exchange::shuffle_down, mask, value,
                             static_cast<int>(delta), width, {"__shfl_down_sync", file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATED_PLACE()) {
  return static_cast<unsigned>(emulation::exchange({emulation::Exchange::ballot,
                                                    mask,
                                                    0,
                                                    32,
                                                    4,
                                                    predicate != 0 ? 1u : 0u,
                                                    {"__ballot_sync", file, line}}));
}
inline int __all_sync(unsigned mask, int predicate, EMULATED_PLACE()) {
  return __ballot_sync(mask, predicate, file, line) == mask ? 1 : 0;
}
inline int __any_sync(unsigned mask, int predicate, EMULATED_PLACE()) {
  return __ballot_sync(mask, predicate, file, line) != 0 ? 1 : 0;
}

#define EMULATED_REDUCTION(name, types, expression)                                             \
  template <std::types T>                                                                       \
  T name(unsigned mask, T value, EMULATED_PLACE()) {                                            \
    return emulation::reduced(mask, value, [](T a, T b) { return static_cast<T>(expression); }, \
                              {#name, file, line});                                             \
  }
EMULATED_REDUCTION(__reduce_max_sync, integral, a > b ? a : b)
EMULATED_REDUCTION(__reduce_min_sync, integral, a < b ? a : b)
EMULATED_REDUCTION(__reduce_add_sync, integral, a + b)
EMULATED_REDUCTION(__reduce_or_sync, unsigned_integral, a | b)
EMULATED_REDUCTION(__reduce_and_sync, unsigned_integral, (a & b))
EMULATED_REDUCTION(__reduce_xor_sync, unsigned_integral, a ^ b)
#undef EMULATED_REDUCTION
