#pragma once

/// The oracle of all tests: each update rule on one element, in double, written from the formulas
/// of the papers (AdEMAMix: algorithm 1) and sharing nothing with src/. Slow and obvious.

#include <cmath>

#include "shardmix/rules.hpp"

namespace shardmix::testing {

struct ReferenceElement {
  double theta = 0.0;
  double m1 = 0.0;
  double m2 = 0.0;
  double v = 0.0;
};

struct ReferenceStep {
  double lr = 0.0;
  double weight_decay = 0.0;
  long step = 1;       ///< t
  long slow_step = 1;  ///< s
};

/// From beta `start` to `end` over `steps`, by way of the half-life: it goes linearly from that of
/// the one to that of the other.
inline double reference_beta(double start, double end, long s, long steps) {
  if (steps == 0) return end;
  const double done = std::fmin(static_cast<double>(s) / static_cast<double>(steps), 1.0);
  const auto half_life = [](double beta) {
    return beta == 0.0 ? 0.0 : std::log(0.5) / std::log(beta);
  };
  const double now = (1.0 - done) * half_life(start) + done * half_life(end);
  return std::fmin(std::pow(0.5, 1.0 / now), end);
}

/// The paper's f_alpha: linear from 0 to alpha over T steps.
inline double reference_alpha(const AdEMAMix& rule, long s) {
  const auto t_alpha = static_cast<double>(rule.alpha_steps.value_or(rule.lr.steps));
  if (t_alpha == 0.0) return rule.alpha;
  return std::fmin(static_cast<double>(s) * rule.alpha / t_alpha, rule.alpha);
}

/// The paper's f_beta3.
inline double reference_beta3(const AdEMAMix& rule, long s) {
  return reference_beta(rule.beta1, rule.beta3, s, rule.beta3_steps.value_or(rule.lr.steps));
}

inline void reference_update(const AdEMAMix& rule, const ReferenceStep& at, double g,
                             ReferenceElement& x) {
  const double alpha = reference_alpha(rule, at.slow_step);
  const double beta3 = reference_beta3(rule, at.slow_step);
  x.m1 = rule.beta1 * x.m1 + (1.0 - rule.beta1) * g;
  x.m2 = beta3 * x.m2 + (1.0 - beta3) * g;
  x.v = rule.beta2 * x.v + (1.0 - rule.beta2) * g * g;
  const double m1_hat = x.m1 / (1.0 - std::pow(rule.beta1, at.step));
  const double v_hat = x.v / (1.0 - std::pow(rule.beta2, at.step));
  x.theta -=
      at.lr * ((m1_hat + alpha * x.m2) / (std::sqrt(v_hat) + rule.eps) + at.weight_decay * x.theta);
}

inline void reference_update(const AdamW& rule, const ReferenceStep& at, double g,
                             ReferenceElement& x) {
  x.m1 = rule.beta1 * x.m1 + (1.0 - rule.beta1) * g;
  x.v = rule.beta2 * x.v + (1.0 - rule.beta2) * g * g;
  const double m1_hat = x.m1 / (1.0 - std::pow(rule.beta1, at.step));
  const double v_hat = x.v / (1.0 - std::pow(rule.beta2, at.step));
  x.theta -= at.lr * (m1_hat / (std::sqrt(v_hat) + rule.eps) + at.weight_decay * x.theta);
}

/// The sum m is kept as m2.
inline void reference_update(const SimplifiedAdEMAMix& rule, const ReferenceStep& at, double g,
                             ReferenceElement& x) {
  const double beta1 = reference_beta(rule.min_beta1, rule.beta1, at.slow_step,
                                      rule.beta1_steps.value_or(rule.lr.steps));
  x.m2 = beta1 * x.m2 + g;
  x.v = rule.beta2 * x.v + (1.0 - rule.beta2) * g * g;
  const double v_hat = x.v / (1.0 - std::pow(rule.beta2, at.step));
  x.theta -=
      at.lr * ((x.m2 + rule.alpha * g) / (std::sqrt(v_hat) + rule.eps) + at.weight_decay * x.theta);
}

inline void reference_update(const Lion& rule, const ReferenceStep& at, double g,
                             ReferenceElement& x) {
  const double mixed = rule.beta1 * x.m1 + (1.0 - rule.beta1) * g;
  const double sign = mixed > 0.0 ? 1.0 : mixed < 0.0 ? -1.0 : 0.0;
  x.theta -= at.lr * (sign + at.weight_decay * x.theta);
  x.m1 = rule.beta2 * x.m1 + (1.0 - rule.beta2) * g;
}

inline void reference_update(const Rule& rule, const ReferenceStep& at, double g,
                             ReferenceElement& x) {
  std::visit([&](const auto& r) { reference_update(r, at, g, x); }, rule);
}

}  // namespace shardmix::testing
