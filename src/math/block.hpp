#pragma once

/// Arithmetic on a block: the 256 elements that nothing is ever cut inside of.

#include <cstdint>
#include <limits>

#include "math/qualifiers.hpp"

namespace shardmix::math {

inline constexpr std::int64_t block_elements = 256;
inline constexpr std::int64_t block_columns = 32;
inline constexpr std::int64_t block_rows = block_elements / block_columns;

/// A gradient beyond this is treated as an infinity: its square would overflow v for ever.
inline constexpr float largest_gradient = 1e18f;

/// Whether a summed gradient may enter the state: neither nan nor infinite nor too large to square.
SHARDMIX_HOST_DEVICE bool is_usable(float gradient) {
  return gradient >= -largest_gradient && gradient <= largest_gradient;
}

/// The balanced binary tree over 2, 4 or 8 values: the order of every small sum here.
template <int N, class Get>
SHARDMIX_HOST_DEVICE auto tree_sum(const Get& get, int begin = 0) {
  if constexpr (N == 1) {
    return get(begin);
  } else {
    return tree_sum<N / 2>(get, begin) + tree_sum<N / 2>(get, begin + N / 2);
  }
}

}  // namespace shardmix::math
