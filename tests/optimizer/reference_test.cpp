// The whole step on several ranks against the double-precision oracle, which trains every parameter
// whole.

#include <gtest/gtest.h>

#include <cmath>

#include "support/reference_model.hpp"

namespace shardmix {
namespace {

using testing::ReferenceModel;

constexpr int steps = 12;

struct Case {
  Rule rule;
  DType dtype = fp32;
  double clip_norm = 0.0;
  int micro_batches = 1;
  Master master = Master::remainder;
};

class ReferenceTest : public ::testing::TestWithParam<Case> {};

/// The mean gradient that the oracle sees: 16-bit gradients are rounded before they are summed.
std::vector<std::vector<double>> mean_gradient(const ShardedOptimizer& optimizer,
                                               std::uint32_t step, std::uint32_t slots) {
  std::vector<std::vector<double>> mean;
  std::uint32_t number = 0;
  for (const Parameter& p : optimizer.parameters()) {
    ++number;
    auto& values = mean.emplace_back(static_cast<std::size_t>(p.elements()), 0.0);
    if (!p.group.trainable) continue;
    for (std::size_t i = 0; i < values.size(); ++i) {
      for (std::uint32_t slot = 0; slot < slots; ++slot) {
        values[i] += testing::rounded(
            p.dtype, testing::noise(100 + slot, step, number, static_cast<std::uint32_t>(i)));
      }
      values[i] /= slots;
    }
  }
  return mean;
}

TEST_P(ReferenceTest, TrainsAsTheOracleDoes) {
  const Case& c = GetParam();
  Runtime runtime = adopt(MPI_COMM_WORLD, testing::test_options(2));
  ShardedOptimizer optimizer(
      runtime, testing::awkward_parameters(c.dtype), c.rule,
      {.clip_norm = c.clip_norm, .master = c.master, .bucket_elements = 2048});
  testing::start(optimizer, runtime.rank());
  ReferenceModel reference(optimizer, c.rule, c.clip_norm);
  const auto frozen = testing::snapshot(optimizer).at("frozen");
  const auto slots = static_cast<std::uint32_t>(runtime.size() * c.micro_batches);

  for (std::uint32_t step = 1; step <= steps; ++step) {
    for (int m = 0; m < c.micro_batches; ++m) {
      testing::write_gradients(optimizer, step,
                               static_cast<std::uint32_t>(m * runtime.size() + runtime.rank()));
      if (m + 1 < c.micro_batches) optimizer.accumulate();
    }
    const StepReport report = optimizer.step();
    const double norm = reference.step(mean_gradient(optimizer, step, slots));
    ASSERT_FALSE(report.skipped);
    EXPECT_EQ(report.step, step);
    EXPECT_NEAR(report.gradient_norm, norm, 1e-6 * norm);
    if (c.clip_norm > 0.0) {
      EXPECT_NEAR(report.clip_scale, std::fmin(1.0, c.clip_norm / norm), 1e-6);
    }
  }

  // Weights are compared through the parameters; 16-bit ones to half a unit in their last place.
  // Where the ranks' gradients nearly cancel, the mean that is left has few right digits, and the
  // rule divides its size out.
  for (std::size_t p = 0; p < optimizer.parameters().size(); ++p) {
    const testing::OnHost host(optimizer, optimizer.parameter(optimizer.parameters()[p].name));
    const TensorView& view = host.view();
    const double tolerance = view.dtype == fp32 ? 2e-6 : view.dtype == bf16 ? 0x1p-8 : 0x1p-11;
    for (std::int64_t i = 0; i < view.elements; ++i) {
      const double expected = reference.element(p, static_cast<std::size_t>(i)).theta;
      ASSERT_NEAR(testing::value_of(view, i), expected, tolerance * std::fabs(expected) + 1e-5)
          << optimizer.parameters()[p].name << "[" << i << "]";
    }
  }
  EXPECT_EQ(testing::snapshot(optimizer).at("frozen"), frozen);
}

const Schedule lr = cosine(1e-2, {.warmup = 5, .steps = steps, .final = 1e-4});

INSTANTIATE_TEST_SUITE_P(
    Cases, ReferenceTest,
    ::testing::Values(Case{.rule = AdEMAMix{.lr = lr}}, Case{.rule = AdamW{.lr = lr}},
                      Case{.rule = AdEMAMix{.lr = lr, .beta1 = 0.0}},
                      Case{.rule = AdEMAMix{.lr = lr, .alpha_steps = 0}},
                      Case{.rule = AdEMAMix{.lr = lr}, .clip_norm = 1.0},
                      Case{.rule = AdEMAMix{.lr = lr}, .micro_batches = 3},
                      Case{.rule = AdEMAMix{.lr = lr}, .dtype = bf16, .clip_norm = 2.0},
                      Case{.rule = AdamW{.lr = lr}, .dtype = bf16, .micro_batches = 2},
                      Case{.rule = SimplifiedAdEMAMix{.lr = lr, .alpha = 3.0}},
                      Case{.rule = SimplifiedAdEMAMix{.lr = lr, .beta1_steps = 0},
                           .dtype = bf16,
                           .master = Master::full},
                      Case{.rule = Lion{.lr = lr}}, Case{.rule = Lion{.lr = lr}, .dtype = fp16},
                      Case{.rule = AdEMAMix{.lr = lr}, .dtype = fp16, .master = Master::full},
                      Case{.rule = AdamW{.lr = lr}, .dtype = fp16, .micro_batches = 2}));

}  // namespace
}  // namespace shardmix
