#pragma once

#include "math/rules/rule.hpp"

namespace shardmix::math {

/// The momentum is kept where AdEMAMix keeps m2: as slow, and a sum of gradients. It is written
/// m + (g - (1 - beta1) m), for the same reason as an average is.
struct SimplifiedAdEMAMixKernel {
  static constexpr RuleStates kept{.m1 = false, .m2 = true, .v = true, .m2_is_sum = true};

  float one_minus_beta1;
  float one_minus_beta2;
  float alpha;
  float root_v_correction;
  float eps;
  float lr;
  float weight_decay;

  template <class R>
  SHARDMIX_HOST_DEVICE float operator()(float g, float theta, Moments& s, R& roots) const {
    s.m2 = s.m2 + std::fma(-one_minus_beta1, s.m2, g);
    s.v = averaged_square(s.v, g, one_minus_beta2);
    const float denominator = std::fma(roots.root(s.v), root_v_correction, eps);
    return stepped(theta, roots.quotient(std::fma(alpha, g, s.m2), denominator), lr, weight_decay);
  }
};

template <>
struct Spec<SimplifiedAdEMAMix> {
  using R = SimplifiedAdEMAMix;
  static constexpr std::string_view name = "simplified-ademamix";
  static constexpr std::array numbers{
      Number{"beta1", &R::beta1, Range::beta},
      Number{"min_beta1", &R::min_beta1, Range::beta},
      Number{"beta2", &R::beta2, Range::beta},
      Number{"alpha", &R::alpha, Range::non_negative},
      Number{"eps", &R::eps, Range::positive},
      Number{"weight_decay", &R::weight_decay, Range::non_negative},
  };
  static constexpr std::array lengths{Length{"beta1_steps", &R::beta1_steps}};

  static RuleStates states(const R& /*rule*/) { return SimplifiedAdEMAMixKernel::kept; }

  static SimplifiedAdEMAMixKernel kernel(const R& rule, float lr, const StepClocks& clocks) {
    return {.one_minus_beta1 = static_cast<float>(1.0 - rule.beta1_at(clocks.slow_step)),
            .one_minus_beta2 = static_cast<float>(1.0 - rule.beta2),
            .alpha = static_cast<float>(rule.alpha),
            .root_v_correction = root_bias_correction(rule.beta2, clocks.update),
            .eps = static_cast<float>(rule.eps),
            .lr = lr,
            .weight_decay = static_cast<float>(rule.weight_decay)};
  }
};

}  // namespace shardmix::math
