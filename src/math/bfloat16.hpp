#pragma once

/// bf16 as bits, and the two ways of keeping an fp32 weight beside a bf16 parameter.
///
/// A parameter is its fp32 weight rounded to the nearest bf16, ties away from zero: plain integer
/// arithmetic on the bits, which the remainder inverts exactly. weight bits = (parameter bits <<
/// 16) + remainder, with the remainder the signed low half. Both kinds of master weights round
/// alike, so they give the same parameters.

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

SHARDMIX_HOST_DEVICE float float_from_bf16(std::uint16_t bits) {
  return float_from_bits(static_cast<std::uint32_t>(bits) << 16);
}

/// The nearest bf16, ties away from zero. A nan may become another nan or an infinity: weights are
/// finite.
SHARDMIX_HOST_DEVICE std::uint16_t bf16_from_float(float value) {
  return static_cast<std::uint16_t>((bits_from_float(value) + 0x8000u) >> 16);
}

/// The 16 bits that bf16_from_float(weight) lacks.
SHARDMIX_HOST_DEVICE std::uint16_t remainder_of(float weight) {
  return static_cast<std::uint16_t>(bits_from_float(weight));
}

/// The fp32 weight whose bf16_from_float() and remainder_of() these are.
SHARDMIX_HOST_DEVICE float weight_from(std::uint16_t parameter, std::uint16_t remainder) {
  const std::uint32_t high = static_cast<std::uint32_t>(parameter) << 16;
  const auto low =
      static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<std::int16_t>(remainder)));
  return float_from_bits(high + low);
}

}  // namespace shardmix::math
