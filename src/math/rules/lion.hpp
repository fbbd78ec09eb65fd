#pragma once

#include "math/rules/rule.hpp"

namespace shardmix::math {

struct LionKernel {
  static constexpr RuleStates kept{.m1 = true, .m2 = false, .v = false};

  float one_minus_beta1;
  float one_minus_beta2;
  float lr;
  float weight_decay;

  template <class R>
  SHARDMIX_HOST_DEVICE float operator()(float g, float theta, Moments& s, R& /*roots*/) const {
    const float mixed = averaged(s.m1, g, one_minus_beta1);
    s.m1 = averaged(s.m1, g, one_minus_beta2);
    const float sign = mixed > 0.0f ? 1.0f : mixed < 0.0f ? -1.0f : 0.0f;
    return stepped(theta, sign, lr, weight_decay);
  }
};

template <>
struct Spec<Lion> {
  static constexpr std::string_view name = "lion";
  static constexpr std::array numbers{
      Number{"beta1", &Lion::beta1, Range::beta},
      Number{"beta2", &Lion::beta2, Range::beta},
      Number{"weight_decay", &Lion::weight_decay, Range::non_negative},
  };
  static constexpr std::array<Length<Lion>, 0> lengths{};

  static RuleStates states(const Lion& /*rule*/) { return LionKernel::kept; }

  static LionKernel kernel(const Lion& rule, float lr, const StepClocks& /*clocks*/) {
    return {.one_minus_beta1 = static_cast<float>(1.0 - rule.beta1),
            .one_minus_beta2 = static_cast<float>(1.0 - rule.beta2),
            .lr = lr,
            .weight_decay = static_cast<float>(rule.weight_decay)};
  }
};

}  // namespace shardmix::math
