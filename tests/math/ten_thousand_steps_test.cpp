// 10,000 steps of noisy gradients against two oracles: the papers' formulas in double, and AdEMAMix
// in the order of operations of its authors' PyTorch code in float. Each test prints the largest
// error it found; docs/internals/arithmetic.md quotes them.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "math/update_rules.hpp"
#include "support/reference.hpp"

namespace shardmix {
namespace {

constexpr int steps = 10'000;
constexpr int elements = 252;

struct FloatElement {
  float theta = 0.0f;
  math::Moments s = {};
};

/// Gradients with a mean that differs between elements, noise ten times as large, and scales over
/// six decades.
class Gradients {
 public:
  float next(int element) {
    const float mean = 0.1f * static_cast<float>(element % 3 - 1);
    return (mean + noise_(random_)) * scales_[element % 7];
  }

 private:
  static constexpr float scales_[] = {1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f, 10.0f};
  std::mt19937 random_{7};
  std::normal_distribution<float> noise_;
};

/// The largest errors over all elements and steps.
struct Errors {
  double theta = 0.0;  ///< relative to the weight and the sum of lr, how far it could have gone
  double m1 = 0.0;     ///< relative to the root of the gradient's mean square
  double m2 = 0.0;     ///< likewise
  double v = 0.0;      ///< relative to v

  void widen(const FloatElement& x, const testing::ReferenceElement& exact, double path,
             double root) {
    theta = std::fmax(theta, std::fabs(x.theta - exact.theta) / (std::fabs(exact.theta) + path));
    m1 = std::fmax(m1, std::fabs(x.s.m1 - exact.m1) / root);
    m2 = std::fmax(m2, std::fabs(x.s.m2 - exact.m2) / root);
    if (exact.v > 0.0) v = std::fmax(v, std::fabs(x.s.v - exact.v) / exact.v);
  }

  void print(const std::string& what) const {
    std::printf("%-40s theta %.1e  m1 %.1e  m2 %.1e  v %.1e\n", what.c_str(), theta, m1, m2, v);
  }
};

/// The authors' operations, each rounded to float as PyTorch would.
void authors_update(const AdEMAMix& rule, const testing::ReferenceStep& at, float g,
                    FloatElement& x) {
  const double beta3 = testing::reference_beta3(rule, at.slow_step);
  const auto f = [](double value) { return static_cast<float>(value); };
  x.s.m1 = x.s.m1 * f(rule.beta1) + g * f(1.0 - rule.beta1);
  x.s.m2 = x.s.m2 * f(beta3) + g * f(1.0 - beta3);
  x.s.v = x.s.v * f(rule.beta2) + g * g * f(1.0 - rule.beta2);
  const float denominator =
      std::sqrt(x.s.v) / f(std::sqrt(1.0 - std::pow(rule.beta2, at.step))) + f(rule.eps);
  const float fast = x.s.m1 / f(1.0 - std::pow(rule.beta1, at.step));
  float update = (fast + f(testing::reference_alpha(rule, at.slow_step)) * x.s.m2) / denominator;
  update += f(at.weight_decay) * x.theta;
  x.theta += f(-at.lr) * update;
}

template <class R, class Step>
Errors errors_of(const R& rule, const Step& step) {
  Errors errors;
  Gradients gradients;
  std::vector<FloatElement> ours(elements);
  std::vector<testing::ReferenceElement> exact(elements);
  std::vector<double> squares(elements, 0.0);
  for (std::size_t i = 0; i < elements; ++i) {
    ours[i].theta = 0.02f * static_cast<float>(static_cast<int>(i % 11) - 5);
    exact[i].theta = ours[i].theta;
  }
  double path = 0.0;
  for (int t = 1; t <= steps; ++t) {
    const testing::ReferenceStep at{
        .lr = rule.lr.at(t), .weight_decay = rule.weight_decay, .step = t, .slow_step = t};
    path += at.lr;
    const auto kernel =
        math::update_kernel(rule, Group{}, {.step = t, .update = t, .slow_step = t});
    for (std::size_t i = 0; i < elements; ++i) {
      const float g = gradients.next(static_cast<int>(i));
      squares[i] += double{g} * g;
      step(kernel, at, g, ours[i]);
      testing::reference_update(rule, at, g, exact[i]);
      errors.widen(ours[i], exact[i], path, std::sqrt(squares[i] / t));
    }
  }
  return errors;
}

const auto our_step = [](const math::UpdateKernel& kernel, const testing::ReferenceStep&, float g,
                         FloatElement& x) {
  math::Roots roots;
  std::visit([&](const auto& k) { x.theta = k(g, x.theta, x.s, roots); }, kernel);
};

const Schedule lr = cosine(1e-3, {.warmup = 500, .steps = steps, .final = 1e-5});
const AdEMAMix paper{.lr = lr};

TEST(TenThousandSteps, AdEMAMixStaysWithDoublePrecision) {
  const Errors errors = errors_of(paper, our_step);
  errors.print("ademamix");
  EXPECT_LT(errors.theta, 3e-6);
  EXPECT_LT(errors.m1, 4e-7);
  EXPECT_LT(errors.m2, 1.2e-6);
  EXPECT_LT(errors.v, 6e-6);
}

TEST(TenThousandSteps, AdEMAMixIsNoWorseThanTheAuthorsOrder) {
  const Errors ours = errors_of(paper, our_step);
  const Errors theirs =
      errors_of(paper, [](const math::UpdateKernel&, const testing::ReferenceStep& at, float g,
                          FloatElement& x) { authors_update(paper, at, g, x); });
  theirs.print("ademamix, the authors' order");
  EXPECT_LE(ours.theta, 1.1 * theirs.theta);
  EXPECT_LE(ours.m2, 1.1 * theirs.m2);
  EXPECT_LE(ours.v, 1.1 * theirs.v);
}

TEST(TenThousandSteps, AdEMAMixWithoutSchedulesStaysWithDoublePrecision) {
  AdEMAMix rule = paper;
  rule.alpha_steps = rule.beta3_steps = 0;
  const Errors errors = errors_of(rule, our_step);
  errors.print("ademamix, no schedules");
  EXPECT_LT(errors.theta, 3e-6);
  EXPECT_LT(errors.m1, 4e-7);
  EXPECT_LT(errors.m2, 7e-7);
  EXPECT_LT(errors.v, 6e-6);
}

TEST(TenThousandSteps, AdEMAMixWithBetaOneZeroStaysWithDoublePrecision) {
  AdEMAMix rule = paper;
  rule.beta1 = 0.0;
  const Errors errors = errors_of(rule, our_step);
  errors.print("ademamix, beta1 = 0");
  EXPECT_LT(errors.theta, 3e-6);
  EXPECT_LT(errors.m2, 1.2e-6);
  EXPECT_LT(errors.v, 6e-6);
}

TEST(TenThousandSteps, AdamWStaysWithDoublePrecision) {
  const Errors errors = errors_of(AdamW{.lr = lr}, our_step);
  errors.print("adamw");
  EXPECT_LT(errors.theta, 2e-6);
  EXPECT_LT(errors.m1, 4e-7);
  EXPECT_LT(errors.v, 6e-6);
}

// The sum m has the size of up to 1 / (1 - beta1) gradients.
TEST(TenThousandSteps, SimplifiedAdEMAMixStaysWithDoublePrecision) {
  const Errors errors = errors_of(SimplifiedAdEMAMix{.lr = lr, .alpha = 10.0}, our_step);
  errors.print("simplified-ademamix");
  EXPECT_LT(errors.theta, 1e-5);
  EXPECT_LT(errors.m2, 4e-5);
  EXPECT_LT(errors.v, 1.2e-6);
}

TEST(TenThousandSteps, SimplifiedAdEMAMixWithALongMemoryStaysWithDoublePrecision) {
  const SimplifiedAdEMAMix rule{.lr = lr, .beta1 = 0.9999, .alpha = 10.0, .beta1_steps = 0};
  const Errors errors = errors_of(rule, our_step);
  errors.print("simplified-ademamix, beta1 = 0.9999");
  EXPECT_LT(errors.theta, 1e-4);
  EXPECT_LT(errors.m2, 6e-3);
  EXPECT_LT(errors.v, 1.2e-6);
}

TEST(TenThousandSteps, LionStaysWithDoublePrecision) {
  const Errors errors = errors_of(Lion{.lr = lr}, our_step);
  errors.print("lion");
  EXPECT_LT(errors.theta, 2e-6);
  EXPECT_LT(errors.m1, 4e-7);
}

}  // namespace
}  // namespace shardmix
