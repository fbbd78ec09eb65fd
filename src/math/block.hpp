#pragma once

/// Arithmetic on a block: the 256 elements that nothing is ever cut inside of.

#include <cstdint>

#include "math/qualifiers.hpp"

namespace shardmix::math {

inline constexpr std::int64_t block_elements = 256;

/// A gradient beyond this is treated as an infinity: its square would overflow v for ever.
inline constexpr float largest_gradient = 1e18f;

/// Whether a summed gradient may enter the state: neither nan nor infinite nor too large to square.
SHARDMIX_HOST_DEVICE bool is_usable(float gradient) {
  return gradient >= -largest_gradient && gradient <= largest_gradient;
}

}  // namespace shardmix::math
