#pragma once

/// fp16 (IEEE binary16) as bits, in 32-bit lanes: conversions in integer arithmetic, the same on
/// every machine.

#include <cmath>
#include <cstdint>

#include "math/bfloat16.hpp"
#include "math/qualifiers.hpp"

namespace shardmix::math {

SHARDMIX_HOST_DEVICE float float_from_fp16(std::uint32_t bits) {
  const std::uint32_t magnitude = (bits & 0x7FFFu) << 13;
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  // The exponent's bias is 112 less; multiplying makes subnormals right too.
  const float finite = float_from_bits(magnitude) * 0x1p112f;
  const std::uint32_t special = magnitude | 0x7F800000u;
  return float_from_bits(sign | (magnitude >= 0x0F800000u ? special : bits_from_float(finite)));
}

/// The nearest fp16, ties to even; infinity from 65520 on. A nan stays a nan.
SHARDMIX_HOST_DEVICE std::uint32_t fp16_bits(float value) {
  const std::uint32_t bits = bits_from_float(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  // Normal: rebias, and round at bit 13 by adding just under a half, and the last kept bit.
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal: adding 1/2 leaves multiples of 2^-24 in the low bits, rounded by the addition.
  const std::uint32_t subnormal =
      bits_from_float(float_from_bits(magnitude) + 0.5f) - bits_from_float(0.5f);
  std::uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  if (magnitude >= 0x477FF000u) result = 0x7C00u;
  if (magnitude > 0x7F800000u) result = 0x7E00u;
  return sign | result;
}

SHARDMIX_HOST_DEVICE std::uint16_t fp16_from_float(float value) {
  return static_cast<std::uint16_t>(fp16_bits(value));
}

/// One of the two neighbours, so that their mean over `random` (16 uniform bits) is `value`; the
/// largest finite value in place of infinity.
SHARDMIX_HOST_DEVICE std::uint32_t fp16_bits(float value, std::uint32_t random) {
  const std::uint32_t bits = bits_from_float(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  const std::uint32_t normal = (magnitude - 0x38000000u + (random >> 3)) >> 13;
  // In units of 2^-24, where a subnormal is an integer.
  const float units = magnitude < 0x38800000u ? float_from_bits(magnitude) * 0x1p24f : 0.0f;
  const auto floor = static_cast<std::int32_t>(units);
  const float rest = (units - static_cast<float>(floor)) * 65536.0f;
  const bool up = static_cast<float>(static_cast<std::int32_t>(random)) < rest;
  const auto subnormal = static_cast<std::uint32_t>(floor + (up ? 1 : 0));
  std::uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  if (result > 0x7BFFu || magnitude >= 0x477FF000u) result = 0x7BFFu;
  return sign | result;
}

}  // namespace shardmix::math
