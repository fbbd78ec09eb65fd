#pragma once

/// The trainer's random numbers: each is a pure function of the run's seed and of a place, so that
/// no rank has a generator's state to keep, to share or to store.

#include <cstdint>

#include "math/philox.hpp"

namespace shardmix::train {

/// What the numbers are for: no two uses share any.
enum class RandomStream : std::uint32_t { initial_values = 1, training_windows = 2 };

struct RandomPlace {
  RandomStream stream = RandomStream::initial_values;
  std::uint64_t number = 0;
  std::uint32_t item = 0;
};

/// 128 random bits.
[[nodiscard]] constexpr math::Philox random_words(std::uint64_t seed, const RandomPlace& place) {
  const auto low = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
  const auto high = [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); };
  return math::philox4x32({{low(place.number), high(place.number), place.item,
                            static_cast<std::uint32_t>(place.stream)}},
                          low(seed), high(seed));
}

}  // namespace shardmix::train
