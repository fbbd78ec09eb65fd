#include <gtest/gtest.h>

#include <limits>

#include "optimizer/support.hpp"

namespace shardmix {
namespace {

using testing::config_error;

class LossScalingTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  std::uint32_t rank_ = static_cast<std::uint32_t>(runtime_.rank());

  ShardedOptimizer make(const LossScaling& scaling, DType dtype = fp32) {
    ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(dtype), AdEMAMix{.lr = 1e-2},
                               {.clip_norm = 1.0, .loss_scaling = scaling});
    testing::start(optimizer, runtime_.rank());
    return optimizer;
  }

  /// As a trainer does it.
  StepReport step(ShardedOptimizer& optimizer) {
    testing::write_gradients(optimizer, static_cast<std::uint32_t>(optimizer.clocks().step + 1),
                             rank_, optimizer.loss_scale());
    return optimizer.step();
  }

  /// One rank's gradient overflows.
  StepReport bad_step(ShardedOptimizer& optimizer) {
    testing::write_gradients(optimizer, 1, rank_);
    if (runtime_.rank() == runtime_.size() - 1) {
      testing::set_value(optimizer, optimizer.gradient("matrix"), 5,
                         std::numeric_limits<float>::infinity());
    }
    return optimizer.step();
  }
};

TEST_F(LossScalingTest, IsDividedOutOfTheGradients) {
  for (const DType dtype : {fp32, bf16}) {
    ShardedOptimizer plain = make({}, dtype);
    ShardedOptimizer constant = make({.initial = 1024.0}, dtype);
    ShardedOptimizer dynamic = make({.initial = 65536.0, .growth_interval = 2}, dtype);
    for (int i = 0; i < 6; ++i) {
      const StepReport expected = step(plain);
      EXPECT_EQ(expected.loss_scale, 1.0);
      for (ShardedOptimizer* o : {&constant, &dynamic}) {
        const double scale = o->loss_scale();
        const StepReport report = step(*o);
        EXPECT_EQ(report.loss_scale, scale);
        EXPECT_EQ(report.gradient_norm, expected.gradient_norm);
        EXPECT_EQ(report.clip_scale, expected.clip_scale);
      }
    }
    EXPECT_EQ(constant.loss_scale(), 1024.0);
    EXPECT_EQ(dynamic.loss_scale(), 8 * 65536.0);
    EXPECT_EQ(testing::snapshot(constant), testing::snapshot(plain));
    EXPECT_EQ(testing::snapshot(dynamic), testing::snapshot(plain));
  }
}

TEST_F(LossScalingTest, HalvesWithASkippedStepAndGrowsAfterTheInterval) {
  ShardedOptimizer optimizer = make({.initial = 4.0, .growth_interval = 3});
  const auto before = testing::snapshot(optimizer);
  EXPECT_TRUE(bad_step(optimizer).skipped);
  EXPECT_EQ(optimizer.loss_scale(), 2.0);
  EXPECT_EQ(testing::snapshot(optimizer), before);
  for (const double expected : {2.0, 2.0, 4.0, 4.0, 4.0, 8.0, 8.0, 8.0}) {
    EXPECT_FALSE(step(optimizer).skipped);
    EXPECT_EQ(optimizer.loss_scale(), expected);
  }
  // One more would have been the third: the count begins again.
  EXPECT_TRUE(bad_step(optimizer).skipped);
  for (const double expected : {4.0, 4.0, 8.0}) {
    step(optimizer);
    EXPECT_EQ(optimizer.loss_scale(), expected);
  }
  for (const double expected : {4.0, 2.0, 1.0, 1.0, 1.0}) {
    const StepReport report = bad_step(optimizer);
    EXPECT_TRUE(report.skipped);
    EXPECT_EQ(optimizer.loss_scale(), expected);
  }
  EXPECT_FALSE(step(optimizer).skipped);
}

TEST_F(LossScalingTest, AConstantOneStays) {
  ShardedOptimizer optimizer = make({.initial = 4.0});
  EXPECT_TRUE(bad_step(optimizer).skipped);
  EXPECT_EQ(optimizer.loss_scale(), 4.0);
  EXPECT_FALSE(step(optimizer).skipped);
  EXPECT_EQ(optimizer.loss_scale(), 4.0);
}

/// Gradients up to 1 times 65536 are beyond fp16; half of that is not.
TEST_F(LossScalingTest, FindsTheScaleThatFp16CanHold) {
  ShardedOptimizer optimizer = make(dynamic_loss_scaling, fp16);
  EXPECT_EQ(optimizer.loss_scale(), 65536.0);
  EXPECT_TRUE(step(optimizer).skipped);
  EXPECT_EQ(optimizer.loss_scale(), 32768.0);
  EXPECT_FALSE(step(optimizer).skipped);
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 2, .updates = 1, .slow_step = 1}));
}

/// Too small for fp16 without it.
TEST_F(LossScalingTest, KeepsSmallGradientsOfFp16) {
  for (const double scale : {1.0, 65536.0}) {
    ShardedOptimizer optimizer = make({.initial = scale}, fp16);
    testing::write_gradients(optimizer, 1, rank_, 1e-9 * scale);
    testing::set_values(optimizer, optimizer.gradient("norm"), 0.0);  // the one of fp32
    const double norm = optimizer.step().gradient_norm;
    EXPECT_EQ(norm > 0.0, scale > 1.0);
  }
}

TEST_F(LossScalingTest, BadOptionsAreRefused) {
  for (const LossScaling& bad : {LossScaling{.initial = 0.5}, LossScaling{.initial = std::nan("")},
                                 LossScaling{.initial = std::numeric_limits<double>::infinity()},
                                 LossScaling{.growth_interval = -1}}) {
    const std::string error = config_error([&] { make(bad); });
    EXPECT_EQ(error.find("loss_scaling."), 0U) << error;
  }
}

}  // namespace
}  // namespace shardmix
