#include "math/float16.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace shardmix::math {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// The value of a finite fp16, from its definition.
double exact_value(std::uint32_t bits) {
  const int exponent = static_cast<int>((bits >> 10) & 31u);
  const double mantissa = bits & 0x3FFu;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024.0 + mantissa, exponent - 25);
  return (bits & 0x8000u) != 0 ? -size : size;
}

/// The largest finite fp16 that isn't above `size`, for 0 <= size < 65536.
std::uint32_t at_or_below(double size) {
  std::uint32_t low = 0;
  std::uint32_t high = 0x7C00;  // not finite, but its pattern's value is 65536
  while (high - low > 1) {
    const std::uint32_t middle = (low + high) / 2;
    (exact_value(middle) <= size ? low : high) = middle;
  }
  return low;
}

/// The nearest by comparing the neighbours, ties to the even one.
std::uint32_t nearest_of(float value) {
  const std::uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
  const double size = std::fabs(value);
  if (size >= 65536.0) return sign | 0x7C00u;
  const std::uint32_t below = at_or_below(size);
  const double down = size - exact_value(below);
  const double up = exact_value(below + 1) - size;  // infinity's place is 65536
  if (down == up) return sign | (below % 2 == 0 ? below : below + 1);
  return sign | (down < up ? below : below + 1);
}

TEST(Float16, EveryValueIsWidenedAndComesBack) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float value = float_from_fp16(bits);
    if ((bits & 0x7C00u) != 0x7C00u) {
      ASSERT_EQ(double{value}, exact_value(bits)) << bits;
      ASSERT_EQ(std::signbit(value), bits >= 0x8000u) << bits;
      ASSERT_EQ(fp16_bits(value), bits);
      ASSERT_EQ(fp16_from_float(value), bits);
    } else if ((bits & 0x3FFu) == 0) {
      ASSERT_EQ(value, bits == 0x7C00u ? infinity : -infinity);
      ASSERT_EQ(fp16_bits(value), bits);
    } else {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(float_from_fp16(fp16_bits(value)))) << bits;
    }
  }
}

TEST(Float16, RoundsToTheNearest) {
  // Coprime to 2^32: every exponent and every low bits.
  constexpr std::uint64_t stride = 1009;
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += stride) {
    const float value = float_from_bits(static_cast<std::uint32_t>(bits));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(float_from_fp16(fp16_bits(value))));
      continue;
    }
    ASSERT_EQ(fp16_bits(value), nearest_of(value)) << value;
  }
}

TEST(Float16, RoundsTiesToTheEvenOne) {
  for (std::uint32_t bits = 0; bits < 0x7C00u; ++bits) {
    const auto tie = static_cast<float>((exact_value(bits) + exact_value(bits + 1)) / 2);
    ASSERT_EQ(fp16_bits(tie), bits + bits % 2) << tie;
    ASSERT_EQ(fp16_bits(-tie), 0x8000u | (bits + bits % 2)) << tie;
    ASSERT_EQ(fp16_bits(std::nextafter(tie, 0.0f)), bits);
    ASSERT_EQ(fp16_bits(std::nextafter(tie, infinity)), bits + 1);
  }
}

TEST(Float16, OverflowsToInfinityFromWhereTheNearestWouldBe) {
  EXPECT_EQ(fp16_bits(65519.996f), 0x7BFFu);
  EXPECT_EQ(fp16_bits(65520.0f), 0x7C00u);
  EXPECT_EQ(fp16_bits(-65520.0f), 0xFC00u);
  EXPECT_EQ(fp16_bits(std::numeric_limits<float>::max()), 0x7C00u);
}

/// The mean of all 16-bit numbers' results, each of which must be a neighbour.
void expect_unbiased(float value) {
  const double size = std::fabs(double{value});
  const std::uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
  const std::uint32_t below = at_or_below(size);
  double sum = 0.0;
  for (std::uint32_t random = 0; random < 0x10000u; ++random) {
    const std::uint32_t rounded = fp16_bits(value, random);
    ASSERT_TRUE(rounded == (sign | below) || rounded == (sign | (below + 1))) << value;
    sum += exact_value(rounded);
  }
  // What 16 bits of random numbers resolve.
  const double resolution = (exact_value(below + 1) - exact_value(below)) / 65536.0;
  ASSERT_NEAR(sum / 65536.0, double{value}, 1.001 * resolution) << value;
}

TEST(Float16, StochasticRoundingGivesANeighbourAndTheValueInTheMean) {
  for (const float value :
       {1.0f, 1.0001f, 1.00049f, 0.1f, 3.14159f, 1000.7f, 65503.0f, 6.1e-5f, 6.2e-5f, 6.09e-5f,
        1e-5f, 3.3e-6f, 5.96e-8f, 5e-8f, 1e-8f, 1e-11f, 1e-20f, 1e-40f, 0.0f}) {
    expect_unbiased(value);
    expect_unbiased(-value);
  }
}

TEST(Float16, StochasticRoundingLeavesExactValues) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    if ((bits & 0x7C00u) == 0x7C00u) continue;
    for (const std::uint32_t random : {0u, 1u, 0x8000u, 0xFFFFu})
      ASSERT_EQ(fp16_bits(float_from_fp16(bits), random), bits);
  }
}

TEST(Float16, StochasticRoundingStaysFinite) {
  for (const float value : {65504.0f, 65505.0f, 65519.0f, 65520.0f, 65536.0f, 1e10f, 3e38f}) {
    for (const std::uint32_t random : {0u, 0x8000u, 0xFFFFu}) {
      EXPECT_EQ(fp16_bits(value, random), 0x7BFFu) << value;
      EXPECT_EQ(fp16_bits(-value, random), 0xFBFFu) << value;
    }
  }
}

}  // namespace
}  // namespace shardmix::math
