#include "math/bfloat16.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace shardmix::math {
namespace {

TEST(Bfloat16, RemainderRestoresEveryFiniteWeight) {
  // A stride that is coprime to 2^32 meets every low half and every high half many times over.
  constexpr std::uint64_t stride = 997;
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += stride) {
    const float weight = float_from_bits(static_cast<std::uint32_t>(bits));
    if (!std::isfinite(weight)) continue;
    const float restored = weight_from(bf16_from_float(weight), remainder_of(weight));
    ASSERT_EQ(bits_from_float(restored), bits) << weight;
  }
}

TEST(Bfloat16, RoundsToTheNearest) {
  for (std::uint32_t high = 0; high < 0x7F7F; high += 3) {
    const float below = float_from_bf16(static_cast<std::uint16_t>(high));
    const float above = float_from_bf16(static_cast<std::uint16_t>(high + 1));
    for (std::uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      const float value = float_from_bits(high << 16 | low);
      const float rounded = float_from_bf16(bf16_from_float(value));
      // At a tie, away from zero.
      const bool up = double{above} - double{value} <= double{value} - double{below};
      ASSERT_EQ(rounded, up ? above : below) << value;
      ASSERT_EQ(float_from_bf16(bf16_from_float(-value)), -rounded);
    }
  }
}

}  // namespace
}  // namespace shardmix::math
