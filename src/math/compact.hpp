#pragma once

/// Compact state: m1 and v in 8 bits, m2 in 16 bits, packed into one word, with scales for each
/// block of 256.
///
/// A code q stands for (F(q) - F(0)) scale, where F(q) is the float whose exponent and upper
/// mantissa bits are q's, up to 2. So values near the block's largest have a floating-point
/// precision, and those far below it go over into equal steps down to an exact zero; decoding is a
/// shift and an fma. The scale is a power of two. v is a divisor: it has the same code without
/// F(0), and is zero only where the whole block is.
///
/// Codes are rounded stochastically, with numbers that depend on the seed, the update and the
/// element alone. An average with a long memory moves by less than the distance between two codes
/// at each step: rounded to the nearest it would stand still.

#include <cmath>
#include <cstdint>

#include "math/bfloat16.hpp"
#include "math/qualifiers.hpp"
#include "math/rules/rule.hpp"

namespace shardmix::math {

/// `Bits` bits in all, of which the upper are an exponent and the lower `Mantissa` a mantissa.
template <int Bits, int Mantissa>
struct Companded {
  static constexpr int shift = 23 - Mantissa;
  static constexpr std::uint32_t mask = (1u << Bits) - 1;
  static constexpr std::uint32_t base = (128u << Mantissa) - (1u << Bits);  ///< F(2^Bits) = 2
  static_assert((base & mask) == 0, "F(q) is the bits of base and q side by side");

  SHARDMIX_HOST_DEVICE static float zero() { return float_from_bits(base << shift); }

  /// F of the code whose bits end at bit `shift` of `bits`.
  SHARDMIX_HOST_DEVICE static float f(std::uint32_t bits) {
    return float_from_bits((bits & (mask << shift)) | (base << shift));
  }

  /// Bits of which those from `shift` on are the code of y in [F(0), 2): one of the two around it,
  /// by `random`, of `shift` uniform bits.
  SHARDMIX_HOST_DEVICE static std::uint32_t code(float y, std::uint32_t random) {
    return bits_from_float(y) + random;
  }

  /// The power of two that a block is divided by, from the bits of its largest magnitude; 0 where
  /// that is nearly 0. No code overflows, and the largest is never below F = 1 less a code: decoded
  /// values have the same scale again, or, with a largest rounded up to the last code, the next.
  SHARDMIX_HOST_DEVICE static float scale(std::uint32_t largest) {
    constexpr std::uint32_t last_code = 1u << shift;     // from F(mask) on, in bits below 2
    constexpr int depth = (1 << (Bits - Mantissa)) - 1;  // F(0) = 2^-depth
    constexpr std::uint32_t zeros = depth < 24 ? 1u << (24 - depth) : 0u;  // 2 F(0), below 2
    // The least scale of which 2^-31, the least v, is a float.
    constexpr std::uint32_t least_exponent = 9;
    const std::uint32_t exponent = (largest + last_code + zeros) >> 23;
    return exponent < least_exponent ? 0.0f : float_from_bits(exponent << 23);
  }
};

/// 16 octaves below the block's largest, 8 codes in each.
using M1Code = Companded<7, 3>;
/// 32 octaves, 1024 codes in each.
using M2Code = Companded<15, 10>;
/// 32 octaves (16 of the root), 8 codes in each.
using VCode = Companded<8, 3>;

/// The powers of two that the states of a block are divided by; 0 where all of them are.
struct BlockScales {
  float m1 = 0.0f;
  float m2 = 0.0f;
  float v = 0.0f;
};

/// The bits of the largest magnitudes of some elements.
struct Largest {
  std::uint32_t m1 = 0;
  std::uint32_t m2 = 0;
  std::uint32_t v = 0;
};

[[nodiscard]] SHARDMIX_HOST_DEVICE BlockScales scales_for(const Largest& largest) {
  return {M1Code::scale(largest.m1), M2Code::scale(largest.m2), VCode::scale(largest.v)};
}

/// 1 / scale, or 0.
[[nodiscard]] SHARDMIX_HOST_DEVICE float inverse(float scale) {
  return scale == 0.0f ? 0.0f : float_from_bits((254u << 23) - bits_from_float(scale));
}
[[nodiscard]] SHARDMIX_HOST_DEVICE BlockScales inverse(const BlockScales& scales) {
  return {inverse(scales.m1), inverse(scales.m2), inverse(scales.v)};
}

/// The bits of `from` where the mask's are 1, and those of `other` where they are 0.
[[nodiscard]] SHARDMIX_HOST_DEVICE std::uint32_t merged(std::uint32_t mask, std::uint32_t from,
                                                        std::uint32_t other) {
  return (from & mask) | (other & ~mask);
}

// The word of an element, from the highest bit: m1's sign and code, v's code, m2's sign and code.

[[nodiscard]] SHARDMIX_HOST_DEVICE Moments unpacked(std::uint32_t word, const BlockScales& scales) {
  const float m1 = std::fma(M1Code::f(word >> 4), scales.m1, -M1Code::zero() * scales.m1);
  const float m2 = std::fma(M2Code::f(word << 13), scales.m2, -M2Code::zero() * scales.m2);
  const float v = VCode::f(word << 4) * scales.v;
  return {float_from_bits(bits_from_float(m1) | (word & 0x80000000u)),
          float_from_bits(bits_from_float(m2) | ((word << 16) & 0x80000000u)), v};
}

/// A random number by which packed() rounds to the nearest.
inline constexpr std::uint32_t nearest = 0x80080000u;

[[nodiscard]] SHARDMIX_HOST_DEVICE std::uint32_t packed(const Moments& s,
                                                        const BlockScales& inverses,
                                                        std::uint32_t random) {
  const float m1_size = float_from_bits(magnitude_bits(s.m1));
  const float m2_size = float_from_bits(magnitude_bits(s.m2));
  const float v_size = s.v * inverses.v;
  const float v_least = VCode::zero();
  // Each is rounded by the random bits that it needs; the upper ones decide.
  const std::uint32_t m1 =
      M1Code::code(std::fma(m1_size, inverses.m1, M1Code::zero()), random & 0xFFFFFu);
  const std::uint32_t m2 =
      M2Code::code(std::fma(m2_size, inverses.m2, M2Code::zero()), random >> 19);
  const std::uint32_t v = VCode::code(v_size > v_least ? v_size : v_least, random >> 12);
  const std::uint32_t upper = merged(0x80000000u, bits_from_float(s.m1), m1 << 4);
  const std::uint32_t lower = merged(0x8000u, bits_from_float(s.m2) >> 16, m2 >> 13);
  return merged(0xFF000000u, upper, merged(0x00FF0000u, v >> 4, lower));
}

}  // namespace shardmix::math
