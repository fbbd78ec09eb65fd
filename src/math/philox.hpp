#pragma once

/// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random
/// numbers: as easy as 1, 2, 3", SC 2011). A pure function of counter and key: no state to store,
/// the same numbers on every rank, device and after every resume.

#include <cstddef>
#include <cstdint>

#include "math/qualifiers.hpp"

namespace shardmix::math {

/// Four words: a counter, or the random numbers that it gives.
struct Philox {
  std::uint32_t word[4];

  SHARDMIX_HOST_DEVICE constexpr std::uint32_t operator[](std::size_t i) const { return word[i]; }
  bool operator==(const Philox&) const = default;
};

SHARDMIX_HOST_DEVICE constexpr Philox philox4x32(Philox counter, std::uint32_t key0,
                                                 std::uint32_t key1) {
  constexpr std::uint64_t multiplier0 = 0xD2511F53u;
  constexpr std::uint64_t multiplier1 = 0xCD9E8D57u;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = multiplier0 * counter.word[0];
    const std::uint64_t product1 = multiplier1 * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<std::uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace shardmix::math
