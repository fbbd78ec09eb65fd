#pragma once

/// The random bits of stochastic rounding: a pure function of seed, update, stream, the block's
/// number in the layout and the element in it. So they are the same on any number of ranks, threads
/// and devices, and after every resume.
///
/// Philox makes the key of an update and a stream. From there on it is multiplications and shifts:
/// a Philox for each element would take longer than the update.

#include <cstdint>

#include "math/philox.hpp"
#include "math/qualifiers.hpp"

namespace shardmix::math {

/// The keys of one update.
struct RandomKeys {
  std::uint64_t state = 0;      ///< for rounding compact state
  std::uint64_t parameter = 0;  ///< for rounding parameters without master
};

[[nodiscard]] inline RandomKeys random_keys(std::uint64_t seed, std::int64_t update) {
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const auto number = static_cast<std::uint64_t>(update);
  const Philox words = philox4x32({{low(number), high(number), 0, 0}}, low(seed), high(seed));
  return {.state = std::uint64_t{words[1]} << 32 | words[0],
          .parameter = std::uint64_t{words[3]} << 32 | words[2]};
}

/// The key of a block: the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators", OOPSLA 2014).
[[nodiscard]] SHARDMIX_HOST_DEVICE std::uint32_t block_key(std::uint64_t key, std::int64_t block) {
  std::uint64_t x = key + static_cast<std::uint64_t>(block) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return static_cast<std::uint32_t>((x ^ (x >> 31)) >> 32);
}

/// 32 uniform bits for each element `i` in the first half of a block, with constants from C.
/// Wellons's search for functions of least bias (hash-prospector).
[[nodiscard]] SHARDMIX_HOST_DEVICE std::uint32_t random_bits(std::uint32_t block_key,
                                                             std::uint32_t i) {
  std::uint32_t x = block_key + i * 0x9E3779B9u;
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15)) * 0x735A2D97u;
  return x ^ (x >> 15);
}

/// Those of element i + 128, from those of element i.
[[nodiscard]] SHARDMIX_HOST_DEVICE std::uint32_t second_half(std::uint32_t random) {
  return random * 0x915F77F5u;
}

}  // namespace shardmix::math
