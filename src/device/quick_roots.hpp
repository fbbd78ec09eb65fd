#pragma once

/// Square root and division on a GPU, rounded as IEEE 754 asks, for operands that lie well within
/// fp32's range.
///
/// The compiler's own take any operand: each of them may branch to a slow path, and what may branch
/// doesn't overlap with its neighbours in the same thread. Here a thread goes over all of its
/// elements without a branch, asks once whether all operands were within range, and else does them
/// again with math::Roots. Zero, the state of what never had a gradient, is within range.

#include <cmath>

#include "math/bfloat16.hpp"
#include "math/qualifiers.hpp"
#include "math/rules/rule.hpp"

namespace shardmix::device {

/// 1 / x to within 1 ulp, for normal x.
[[nodiscard]] SHARDMIX_HOST_DEVICE float approximate_reciprocal(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

/// 1 / sqrt(x) to within 2 ulp, for normal x.
[[nodiscard]] SHARDMIX_HOST_DEVICE float approximate_reciprocal_root(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x)));
#endif
}

/// The operations of math::Roots.
class QuickRoots {
 public:
  /// From x = 2^-101 on the remainder x - s^2 is exact, and one step of Newton's from an
  /// approximation gives the nearest: tried for all x of two octaves, which stand for all others.
  [[nodiscard]] SHARDMIX_HOST_DEVICE float root(float x) {
    all_in_range_ = all_in_range_ && (x >= 0x1p-101f || x == 0.0f);
    const float y = approximate_reciprocal_root(fmaxf(x, 0x1p-126f));  // finite for 0 too
    const float s = x * y;
    return std::fma(std::fma(-s, s, x), 0.5f * y, s);
  }

  /// Markstein's: a reciprocal to within an ulp, a quotient to within an ulp, and a last step from
  /// an exact remainder. `b` is positive.
  [[nodiscard]] SHARDMIX_HOST_DEVICE float quotient(float a, float b) {
    all_in_range_ = all_in_range_ &&
                    ((std::fabs(a) >= 0x1p-98f && std::fabs(a) <= 0x1p64f) || a == 0.0f) &&
                    b >= 0x1p-60f && b <= 0x1p25f;
    const float approximate = approximate_reciprocal(b);
    const float r = std::fma(std::fma(-b, approximate, 1.0f), approximate, approximate);
    float q = a * r;
    q = std::fma(std::fma(-b, q, a), r, q);
    q = std::fma(std::fma(-b, q, a), r, q);
    return std::copysign(q, a);  // of a zero
  }

  /// Whether all results so far are the nearest.
  [[nodiscard]] SHARDMIX_HOST_DEVICE bool all_in_range() const { return all_in_range_; }

 private:
  bool all_in_range_ = true;
};

}  // namespace shardmix::device
