// 1,000 steps of noisy gradients against two oracles: the paper's algorithm in double, and the same
// in the order of operations of the paper's authors' PyTorch code in float. Each test prints the
// largest error it found; docs/internals/arithmetic.md quotes them.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>

#include "math/step_scalars.hpp"
#include "support/reference.hpp"

namespace shardmix {
namespace {

constexpr int steps = 1000;
constexpr int elements = 512;

struct FloatElement {
  float theta = 0.0f;
  float m1 = 0.0f;
  float m2 = 0.0f;
  float v = 0.0f;
};

/// A gradient with a mean that differs between elements, noise ten times as large, and scales over
/// six decades.
float gradient(std::mt19937& random, int element) {
  std::normal_distribution<float> noise(0.1f * static_cast<float>(element % 3 - 1), 1.0f);
  return noise(random) * std::pow(10.0f, static_cast<float>(element % 7 - 5));
}

/// The largest errors over all elements and steps.
struct Errors {
  double theta =
      0.0;          ///< relative to the weight and the sum of lr, the distance it could have gone
  double m1 = 0.0;  ///< relative to the root of v
  double m2 = 0.0;  ///< likewise
  double v = 0.0;   ///< relative to v

  void widen(const FloatElement& x, const testing::ReferenceElement& exact, double path) {
    const double scale = std::sqrt(exact.v);
    theta = std::fmax(theta, std::fabs(x.theta - exact.theta) / (std::fabs(exact.theta) + path));
    m1 = std::fmax(m1, std::fabs(x.m1 - exact.m1) / scale);
    m2 = std::fmax(m2, std::fabs(x.m2 - exact.m2) / scale);
    v = std::fmax(v, std::fabs(x.v - exact.v) / exact.v);
  }

  void print(const std::string& what) const {
    std::printf("%-32s theta %.1e  m1 %.1e  m2 %.1e  v %.1e\n", what.c_str(), theta, m1, m2, v);
  }
};

/// The authors' operations, each rounded to float as PyTorch would.
void authors_update(const AdEMAMix& rule, const testing::ReferenceStep& at, float g,
                    FloatElement& x) {
  const double beta3 = testing::reference_beta3(rule, at.slow_step);
  const auto f = [](double value) { return static_cast<float>(value); };
  x.m1 = x.m1 * f(rule.beta1) + g * f(1.0 - rule.beta1);
  x.m2 = x.m2 * f(beta3) + g * f(1.0 - beta3);
  x.v = x.v * f(rule.beta2) + g * g * f(1.0 - rule.beta2);
  const float denominator =
      std::sqrt(x.v) / f(std::sqrt(1.0 - std::pow(rule.beta2, at.step))) + f(rule.eps);
  const float fast = x.m1 / f(1.0 - std::pow(rule.beta1, at.step));
  float update = (fast + f(testing::reference_alpha(rule, at.slow_step)) * x.m2) / denominator;
  update += f(at.weight_decay) * x.theta;
  x.theta += f(-at.lr) * update;
}

template <class R, class Step>
Errors errors_of(const R& rule, const Step& step) {
  Errors errors;
  std::mt19937 random(7);
  std::vector<FloatElement> ours(elements);
  std::vector<testing::ReferenceElement> exact(elements);
  for (int i = 0; i < elements; ++i) {
    ours[static_cast<std::size_t>(i)].theta = 0.02f * static_cast<float>(i % 11 - 5);
    exact[static_cast<std::size_t>(i)].theta = ours[static_cast<std::size_t>(i)].theta;
  }
  double path = 0.0;
  for (int t = 1; t <= steps; ++t) {
    const testing::ReferenceStep at{
        .lr = rule.lr.at(t), .weight_decay = rule.weight_decay, .step = t, .slow_step = t};
    path += at.lr;
    const auto kernel =
        math::update_kernel(rule, Group{}, {.step = t, .update = t, .slow_step = t});
    for (std::size_t i = 0; i < elements; ++i) {
      const float g = gradient(random, static_cast<int>(i));
      step(kernel, at, g, ours[i]);
      testing::reference_update(rule, at, g, exact[i]);
      errors.widen(ours[i], exact[i], path);
    }
  }
  return errors;
}

const auto our_step = [](const math::UpdateKernel& kernel, const testing::ReferenceStep&, float g,
                         FloatElement& x) {
  std::visit([&](const auto& k) { x.theta = k(g, x.theta, x.m1, x.m2, x.v); }, kernel);
};

const AdEMAMix paper{.lr = cosine(1e-3, {.warmup = 100, .steps = steps, .final = 1e-5})};

TEST(ThousandSteps, AdEMAMixStaysWithDoublePrecision) {
  const Errors errors = errors_of(paper, our_step);
  errors.print("ademamix, ours");
  EXPECT_LT(errors.theta, 2e-6);
  EXPECT_LT(errors.m1, 1e-6);
  EXPECT_LT(errors.m2, 1e-6);
  EXPECT_LT(errors.v, 5e-6);
}

TEST(ThousandSteps, AdEMAMixIsNoWorseThanTheAuthorsOrder) {
  const Errors ours = errors_of(paper, our_step);
  const Errors theirs =
      errors_of(paper, [](const math::UpdateKernel&, const testing::ReferenceStep& at, float g,
                          FloatElement& x) { authors_update(paper, at, g, x); });
  theirs.print("ademamix, the authors' order");
  EXPECT_LE(ours.theta, 1.1 * theirs.theta);
  EXPECT_LE(ours.m2, 1.1 * theirs.m2);
  EXPECT_LE(ours.v, 1.1 * theirs.v);
}

TEST(ThousandSteps, AdEMAMixWithoutSchedulesStaysWithDoublePrecision) {
  AdEMAMix rule = paper;
  rule.alpha_steps = rule.beta3_steps = 0;
  const Errors errors = errors_of(rule, our_step);
  errors.print("ademamix, no schedules");
  EXPECT_LT(errors.theta, 2e-6);
  EXPECT_LT(errors.m2, 1e-6);
}

TEST(ThousandSteps, AdEMAMixWithBetaOneZeroStaysWithDoublePrecision) {
  AdEMAMix rule = paper;
  rule.beta1 = 0.0;
  const Errors errors = errors_of(rule, our_step);
  errors.print("ademamix, beta1 = 0");
  EXPECT_LT(errors.theta, 2e-6);
  EXPECT_LT(errors.m2, 1e-6);
}

TEST(ThousandSteps, AdamWStaysWithDoublePrecision) {
  const Errors errors = errors_of(AdamW{.lr = paper.lr}, our_step);
  errors.print("adamw, ours");
  EXPECT_LT(errors.theta, 2e-6);
  EXPECT_LT(errors.m1, 1e-6);
  EXPECT_LT(errors.v, 5e-6);
}

}  // namespace
}  // namespace shardmix
