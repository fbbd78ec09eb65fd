#pragma once

#include "math/rules/rule.hpp"

namespace shardmix::math {

struct AdamWKernel {
  static constexpr RuleStates kept{.m1 = true, .m2 = false, .v = true};

  float one_minus_beta1;
  float one_minus_beta2;
  float m1_correction;
  float root_v_correction;
  float eps;
  float lr;
  float weight_decay;

  template <class R>
  SHARDMIX_HOST_DEVICE float operator()(float g, float theta, Moments& s, R& roots) const {
    s.m1 = averaged(s.m1, g, one_minus_beta1);
    s.v = averaged_square(s.v, g, one_minus_beta2);
    const float denominator = std::fma(roots.root(s.v), root_v_correction, eps);
    return stepped(theta, roots.quotient(s.m1 * m1_correction, denominator), lr, weight_decay);
  }
};

template <>
struct Spec<AdamW> {
  static constexpr std::string_view name = "adamw";
  static constexpr std::array numbers{
      Number{"beta1", &AdamW::beta1, Range::beta},
      Number{"beta2", &AdamW::beta2, Range::beta},
      Number{"eps", &AdamW::eps, Range::positive},
      Number{"weight_decay", &AdamW::weight_decay, Range::non_negative},
  };
  static constexpr std::array<Length<AdamW>, 0> lengths{};

  static RuleStates states(const AdamW& /*rule*/) { return AdamWKernel::kept; }

  static AdamWKernel kernel(const AdamW& rule, float lr, const StepClocks& clocks) {
    return {.one_minus_beta1 = static_cast<float>(1.0 - rule.beta1),
            .one_minus_beta2 = static_cast<float>(1.0 - rule.beta2),
            .m1_correction = bias_correction(rule.beta1, clocks.update),
            .root_v_correction = root_bias_correction(rule.beta2, clocks.update),
            .eps = static_cast<float>(rule.eps),
            .lr = lr,
            .weight_decay = static_cast<float>(rule.weight_decay)};
  }
};

}  // namespace shardmix::math
