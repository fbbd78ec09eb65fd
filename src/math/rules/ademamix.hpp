#pragma once

#include "math/rules/rule.hpp"

namespace shardmix::math {

/// With beta1 = 0, m1 is the gradient, and the state's m1 comes and leaves as zero: compact state
/// would keep it otherwise, and an update would depend on what no checkpoint holds.
struct AdEMAMixKernel {
  static constexpr RuleStates kept{.m1 = true, .m2 = true, .v = true};

  float one_minus_beta1;
  float one_minus_beta2;
  float one_minus_beta3;
  float alpha;
  float m1_correction;
  float root_v_correction;
  float eps;
  float lr;
  float weight_decay;
  float kept_m1;  ///< 1, or 0 where beta1 is; a number, since a choice would not be vectorised

  template <class R>
  SHARDMIX_HOST_DEVICE float operator()(float g, float theta, Moments& s, R& roots) const {
    const float m1 = averaged(s.m1, g, one_minus_beta1);
    s.m1 = kept_m1 * m1;
    s.m2 = averaged(s.m2, g, one_minus_beta3);
    s.v = averaged_square(s.v, g, one_minus_beta2);
    const float denominator = std::fma(roots.root(s.v), root_v_correction, eps);
    const float direction = roots.quotient(std::fma(alpha, s.m2, m1 * m1_correction), denominator);
    return stepped(theta, direction, lr, weight_decay);
  }
};

template <>
struct Spec<AdEMAMix> {
  static constexpr std::string_view name = "ademamix";
  static constexpr std::array numbers{
      Number{"beta1", &AdEMAMix::beta1, Range::beta},
      Number{"beta2", &AdEMAMix::beta2, Range::beta},
      Number{"beta3", &AdEMAMix::beta3, Range::beta},
      Number{"alpha", &AdEMAMix::alpha, Range::non_negative},
      Number{"eps", &AdEMAMix::eps, Range::positive},
      Number{"weight_decay", &AdEMAMix::weight_decay, Range::non_negative},
  };
  static constexpr std::array lengths{
      Length{"alpha_steps", &AdEMAMix::alpha_steps},
      Length{"beta3_steps", &AdEMAMix::beta3_steps},
  };

  static RuleStates states(const AdEMAMix& rule) {
    return {.m1 = rule.beta1 != 0.0, .m2 = true, .v = true};
  }

  static AdEMAMixKernel kernel(const AdEMAMix& rule, float lr, const StepClocks& clocks) {
    return {.one_minus_beta1 = static_cast<float>(1.0 - rule.beta1),
            .one_minus_beta2 = static_cast<float>(1.0 - rule.beta2),
            .one_minus_beta3 = static_cast<float>(1.0 - rule.beta3_at(clocks.slow_step)),
            .alpha = static_cast<float>(rule.alpha_at(clocks.slow_step)),
            .m1_correction = bias_correction(rule.beta1, clocks.update),
            .root_v_correction = root_bias_correction(rule.beta2, clocks.update),
            .eps = static_cast<float>(rule.eps),
            .lr = lr,
            .weight_decay = static_cast<float>(rule.weight_decay),
            .kept_m1 = rule.beta1 != 0.0 ? 1.0f : 0.0f};
  }
};

}  // namespace shardmix::math
