#pragma once

/// The element-wise update rules: the one place where their arithmetic stands, for hosts and
/// devices.
///
/// A kernel is a plain value with the step's scalars. It is called once for each element with the
/// gradient `g`, the fp32 weight `theta` and the state, which it updates; it returns the new
/// weight. Every rounding is spelled out (fma where one is meant; the compilers may not contract
/// the rest), so all backends give the same bits. include/shardmix/rules.hpp has the formulas.
///
/// An average is written m + (1 - beta) (g - m): 1 - beta is rounded once, where beta and 1 - beta
/// in fp32 would not add up to 1 (for beta3 = 0.9999 the decay would be off by 1.7e-4 of itself).

#include <cmath>
#include <variant>

#include "math/qualifiers.hpp"

namespace shardmix::math {

struct AdamWKernel {
  static constexpr bool has_m1 = true;
  static constexpr bool has_m2 = false;

  float one_minus_beta1;
  float one_minus_beta2;
  float m1_correction;      ///< 1 / (1 - beta1^t)
  float root_v_correction;  ///< 1 / sqrt(1 - beta2^t)
  float eps;
  float lr;
  float weight_decay;

  SHARDMIX_HOST_DEVICE float operator()(float g, float theta, float& m1, float& /*m2*/,
                                        float& v) const {
    m1 = std::fma(one_minus_beta1, g - m1, m1);
    v = std::fma(one_minus_beta2, std::fma(g, g, -v), v);
    const float denominator = std::fma(std::sqrt(v), root_v_correction, eps);
    const float direction = (m1 * m1_correction) / denominator;
    return std::fma(-lr, std::fma(weight_decay, theta, direction), theta);
  }
};

/// With HasM1 = false, beta1 is 0: m1 is the gradient itself.
template <bool HasM1>
struct AdEMAMixKernel {
  static constexpr bool has_m1 = HasM1;
  static constexpr bool has_m2 = true;

  float one_minus_beta1;
  float one_minus_beta2;
  float one_minus_beta3;
  float alpha;
  float m1_correction;      ///< 1 / (1 - beta1^t)
  float root_v_correction;  ///< 1 / sqrt(1 - beta2^t)
  float eps;
  float lr;
  float weight_decay;

  SHARDMIX_HOST_DEVICE float operator()(float g, float theta, float& m1, float& m2,
                                        float& v) const {
    if constexpr (HasM1) {
      m1 = std::fma(one_minus_beta1, g - m1, m1);
    } else {
      m1 = g;
    }
    m2 = std::fma(one_minus_beta3, g - m2, m2);
    v = std::fma(one_minus_beta2, std::fma(g, g, -v), v);
    const float denominator = std::fma(std::sqrt(v), root_v_correction, eps);
    const float direction = std::fma(alpha, m2, m1 * m1_correction) / denominator;
    return std::fma(-lr, std::fma(weight_decay, theta, direction), theta);
  }
};

using UpdateKernel = std::variant<AdamWKernel, AdEMAMixKernel<true>, AdEMAMixKernel<false>>;

}  // namespace shardmix::math
