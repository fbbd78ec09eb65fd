// 10,000 steps of noisy gradients in each storage, against the papers' formulas in double. Each
// test prints the errors that it found; docs/internals/arithmetic.md quotes them.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "support/reference.hpp"
#include "update_case.hpp"

namespace shardmix::device {
namespace {

constexpr int steps = 10'000;
constexpr int warmup = 500;
constexpr std::int64_t blocks = 2;
constexpr std::size_t elements = blocks * block;

/// Root mean squares over all elements and steps but the first.
struct Errors {
  double theta = 0.0;   ///< relative to how far weights are from where they began
  double m1 = 0.0;      ///< relative to the root of the gradient's mean square
  double m2 = 0.0;      ///< likewise
  double own_m2 = 0.0;  ///< relative to the root mean square of m2 itself
  double v = 0.0;       ///< relative to v
};

/// A storage and the errors that it may have: two to three times what was measured.
struct Bounds {
  Storage storage;
  Errors most;
};

/// Noise around a mean of a tenth of it. A block has a scale, and its elements a spread of scales
/// around that: of ten about two thirds are within a factor of three.
class Gradients {
 public:
  Gradients() {
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < elements; ++i) {
      scales_[i] = std::pow(10.0f, 0.5f * normal(random_)) * (i < block ? 1e-3f : 3.0f);
      means_[i] = 0.1f * normal(random_);
    }
  }
  float next(std::size_t i) { return (means_[i] + noise_(random_)) * scales_[i]; }

 private:
  std::mt19937 random_{11};
  std::normal_distribution<float> noise_;
  std::vector<float> scales_ = std::vector<float>(elements);
  std::vector<float> means_ = std::vector<float>(elements);
};

/// Sums of squares, from which the errors come.
struct Sums {
  Errors of = {};
  double path = 0.0;
  double m2 = 0.0;
  double count = 0.0;

  void add(const Element& x, const testing::ReferenceElement& exact, double start, double root) {
    const auto square = [](double value) { return value * value; };
    of.theta += square(x.weight - exact.theta);
    path += square(exact.theta - start);
    of.m1 += square((x.s.m1 - exact.m1) / root);
    of.m2 += square((x.s.m2 - exact.m2) / root);
    m2 += square(exact.m2 / root);
    if (exact.v > 0.0) of.v += square(x.s.v / exact.v - 1.0);
    ++count;
  }

  [[nodiscard]] Errors errors() const {
    return {.theta = std::sqrt(of.theta / path),
            .m1 = std::sqrt(of.m1 / count),
            .m2 = std::sqrt(of.m2 / count),
            .own_m2 = m2 > 0.0 ? std::sqrt(of.m2 / m2) : 0.0,
            .v = std::sqrt(of.v / count)};
  }
};

std::vector<Errors> errors_of(const Rule& rule, const std::vector<Bounds>& all) {
  const auto device = host_device(1);
  std::vector<Memory> memories;
  std::vector<testing::ReferenceElement> exact(elements);
  std::vector<Element> start(elements);
  for (std::size_t i = 0; i < elements; ++i) {
    start[i].weight = 0.015625f * static_cast<float>(static_cast<int>(i % 11) - 5);
    exact[i].theta = start[i].weight;
  }
  for (const Bounds& bounds : all) {
    memories.emplace_back(*device, rule, bounds.storage, blocks).write(start);
    memories.back().control().gradient_scale = 1.0f;
  }
  std::vector<Sums> sums(all.size());
  std::vector<double> squares(elements, 0.0);
  Gradients gradients;
  const double weight_decay = std::visit([](const auto& r) { return r.weight_decay; }, rule);
  for (int t = 1; t <= steps; ++t) {
    const testing::ReferenceStep at{
        .lr = lr_of(rule).at(t), .weight_decay = weight_decay, .step = t, .slow_step = t};
    for (std::size_t i = 0; i < elements; ++i) {
      const float g = gradients.next(i);
      squares[i] += double{g} * g;
      testing::reference_update(rule, at, g, exact[i]);
      for (Memory& memory : memories) memory.set_gradient(i, g);
    }
    const auto kernel = kernel_of(rule, {}, t);
    for (std::size_t m = 0; m < memories.size(); ++m) {
      memories[m].arrays().random = math::random_keys(1, t);
      memories[m].update(*device, kernel);
      if (t <= warmup || t % 50 != 0) continue;
      const auto now = memories[m].read();
      for (std::size_t i = 0; i < elements; ++i)
        sums[m].add(now[i], exact[i], start[i].weight, std::sqrt(squares[i] / t));
    }
  }
  std::vector<Errors> errors;
  for (const Sums& s : sums) errors.push_back(s.errors());
  return errors;
}

void expect_errors(const Rule& rule, const std::vector<Bounds>& all) {
  const std::vector<Errors> errors = errors_of(rule, all);
  for (std::size_t m = 0; m < all.size(); ++m) {
    SCOPED_TRACE(name_of(all[m].storage));
    const Errors& e = errors[m];
    const Errors& most = all[m].most;
    std::printf("%-20s %-55s theta %.1e  m1 %.1e  m2 %.1e (of its own %.1e)  v %.1e\n",
                std::string(name_of(rule)).c_str(), name_of(all[m].storage).c_str(), e.theta, e.m1,
                e.m2, e.own_m2, e.v);
    EXPECT_LE(e.theta, most.theta);
    EXPECT_LE(e.m1, most.m1);
    EXPECT_LE(e.m2, most.m2);
    EXPECT_LE(e.own_m2, most.own_m2);
    EXPECT_LE(e.v, most.v);
  }
}

constexpr auto parameter = WeightStorage::parameter;
constexpr auto master = WeightStorage::master;
constexpr auto remainder = WeightStorage::remainder;
constexpr auto full = StateStorage::full;
constexpr auto compact = StateStorage::compact;

const Schedule lr = cosine(1e-3, {.warmup = warmup, .steps = steps, .final = 1e-5});

// clang-format off
TEST(Precision, AdEMAMix) {
  const Errors exact{.theta = 3e-6, .m1 = 4e-8, .m2 = 3e-7, .own_m2 = 3e-6, .v = 1.5e-6};
  const auto but_theta = [&](double theta) { Errors e = exact; e.theta = theta; return e; };
  const auto coarse = [](double theta) { return Errors{theta, 0.05, 3e-3, 0.03, 0.5}; };
  expect_errors(AdEMAMix{.lr = lr}, {
      {{fp32, parameter, full}, exact},
      {{bf16, remainder, full}, exact},
      {{bf16, master, full}, exact},
      {{fp16, master, full}, exact},
      {{bf16, parameter, full}, but_theta(0.1)},
      {{fp16, parameter, full}, but_theta(0.03)},
      {{fp32, parameter, compact}, coarse(0.15)},
      {{bf16, remainder, compact}, coarse(0.15)},
      {{bf16, parameter, compact}, coarse(0.15)},
      {{fp16, parameter, compact}, coarse(0.15)},
  });
}

TEST(Precision, AdamW) {
  const Errors exact{.theta = 3e-6, .m1 = 4e-8, .v = 1.5e-6};
  expect_errors(AdamW{.lr = lr}, {
      {{fp32, parameter, full}, exact},
      {{bf16, remainder, full}, exact},
      {{bf16, parameter, full}, {.theta = 0.15, .m1 = 4e-8, .v = 1.5e-6}},
      {{fp32, parameter, compact}, {.theta = 0.15, .m1 = 0.05, .v = 0.5}},
      {{bf16, parameter, compact}, {.theta = 0.2, .m1 = 0.05, .v = 0.5}},
  });
}

TEST(Precision, SimplifiedAdEMAMix) {
  const Errors exact{.theta = 4e-6, .m2 = 4e-6, .own_m2 = 4e-7, .v = 2e-7};
  expect_errors(SimplifiedAdEMAMix{.lr = cosine(1e-5, {.warmup = warmup, .steps = steps}), .alpha = 10.0}, {
      {{fp32, parameter, full}, exact},
      {{bf16, remainder, full}, exact},
      {{bf16, parameter, full}, {.theta = 0.15, .m2 = 4e-6, .own_m2 = 4e-7, .v = 2e-7}},
      {{fp32, parameter, compact}, {.theta = 0.025, .m2 = 0.035, .own_m2 = 5e-3, .v = 0.3}},
      {{bf16, parameter, compact}, {.theta = 0.15, .m2 = 0.035, .own_m2 = 5e-3, .v = 0.3}},
  });
}

TEST(Precision, Lion) {
  const Errors exact{.theta = 3e-6, .m1 = 6e-8};
  expect_errors(Lion{.lr = cosine(1e-4, {.warmup = warmup, .steps = steps})}, {
      {{fp32, parameter, full}, exact},
      {{bf16, remainder, full}, exact},
      {{bf16, parameter, full}, {.theta = 0.15, .m1 = 6e-8}},
      {{fp32, parameter, compact}, {.theta = 0.1, .m1 = 0.08}},
      {{bf16, parameter, compact}, {.theta = 0.2, .m1 = 0.08}},
  });
}
// clang-format on

}  // namespace
}  // namespace shardmix::device
