#pragma once

/// bf16 as bits, and the two ways of keeping an fp32 weight beside a bf16 parameter.
///
/// Functions take and give 16-bit values in 32 bits: kernels then work in lanes of one width.
///
/// A parameter is its fp32 weight rounded to the nearest bf16, ties away from zero: plain integer
/// arithmetic on the bits, which the remainder inverts exactly: (parameter bits << 16) + remainder
/// = weight bits + 0x8000. Both kinds of master weights round alike, so they give the same
/// parameters.

#include <bit>
#include <cstdint>
#include <cstring>

#include "math/qualifiers.hpp"

namespace shardmix::math {

SHARDMIX_HOST_DEVICE float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

SHARDMIX_HOST_DEVICE std::uint32_t bits_from_float(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// The bits without the sign: ordered as the magnitudes are.
SHARDMIX_HOST_DEVICE std::uint32_t magnitude_bits(float value) {
  return bits_from_float(value) & 0x7FFFFFFFu;
}

SHARDMIX_HOST_DEVICE float float_from_bf16(std::uint32_t bits) {
  return float_from_bits(bits << 16);
}

/// The nearest bf16, ties away from zero. A nan may become another nan or an infinity: weights are
/// finite.
SHARDMIX_HOST_DEVICE std::uint32_t bf16_bits(float value) {
  return (bits_from_float(value) + 0x8000u) >> 16;
}

/// One of the two neighbours, so that their mean over `random` (16 uniform bits) is `value`.
SHARDMIX_HOST_DEVICE std::uint32_t bf16_bits(float value, std::uint32_t random) {
  return (bits_from_float(value) + random) >> 16;
}

SHARDMIX_HOST_DEVICE std::uint16_t bf16_from_float(float value) {
  return static_cast<std::uint16_t>(bf16_bits(value));
}

/// The 16 bits that bf16_bits(weight) lacks: the lower half of the sum whose upper half that is.
SHARDMIX_HOST_DEVICE std::uint32_t remainder_of(float weight) {
  return (bits_from_float(weight) + 0x8000u) & 0xFFFFu;
}

/// That of a weight that is the parameter itself.
inline constexpr std::uint16_t no_remainder = 0x8000;

/// The fp32 weight whose bf16_bits() and remainder_of() these are.
SHARDMIX_HOST_DEVICE float weight_from(std::uint32_t parameter, std::uint32_t remainder) {
  return float_from_bits((parameter << 16 | remainder) - 0x8000u);
}

}  // namespace shardmix::math
