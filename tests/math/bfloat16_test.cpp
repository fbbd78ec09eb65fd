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
    const std::uint32_t remainder = remainder_of(weight);
    ASSERT_LE(remainder, 0xFFFFu);
    const float restored = weight_from(bf16_from_float(weight), remainder);
    ASSERT_EQ(bits_from_float(restored), bits) << weight;
  }
}

TEST(Bfloat16, AParameterAloneIsTheWeightWithoutRemainder) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float parameter = float_from_bf16(bits);
    if (std::isnan(parameter)) continue;
    ASSERT_EQ(bits_from_float(weight_from(bits, no_remainder)), bits_from_float(parameter));
    ASSERT_EQ(remainder_of(parameter), no_remainder);
    ASSERT_EQ(bf16_bits(parameter), bits);
  }
}

TEST(Bfloat16, RoundsToTheNearest) {
  for (std::uint32_t high = 0; high < 0x7F7F; high += 3) {
    const float below = float_from_bf16(high);
    const float above = float_from_bf16(high + 1);
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

// The mean over all 16-bit numbers is the value itself, not nearly so.
TEST(Bfloat16, StochasticRoundingGivesANeighbourAndTheValueInTheMean) {
  for (const std::uint32_t bits :
       {0x00000001u, 0x00001234u, 0x007FFFFFu, 0x00800001u, 0x3F800000u, 0x3F808000u, 0x3F80FFFFu,
        0x3FFFFFFFu, 0x3DCCCCCDu, 0x7F7E8001u, 0x12345678u}) {
    for (const float sign : {1.0f, -1.0f}) {
      const float value = sign * float_from_bits(bits);
      const double below = double{float_from_bf16(bits >> 16)} * sign;
      const double above = double{float_from_bf16((bits >> 16) + 1)} * sign;
      std::uint32_t ups = 0;
      for (std::uint32_t random = 0; random < 0x10000u; ++random) {
        const double rounded = float_from_bf16(bf16_bits(value, random));
        ASSERT_TRUE(rounded == below || rounded == above) << value;
        if (rounded == above) ++ups;
      }
      ASSERT_EQ(below + (above - below) * (ups / 65536.0), double{value});
    }
  }
}

TEST(Bfloat16, StochasticRoundingLeavesExactValues) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    for (const std::uint32_t random : {0u, 1u, 0x8000u, 0xFFFFu})
      ASSERT_EQ(bf16_bits(float_from_bf16(bits), random), bits);
  }
}

}  // namespace
}  // namespace shardmix::math
