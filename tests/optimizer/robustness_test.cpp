// Bad gradients, bad calls and tiny models.

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "shardmix/error.hpp"
#include "support/fixture.hpp"

namespace shardmix {
namespace {

class RobustnessTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  std::uint32_t rank_ = static_cast<std::uint32_t>(runtime_.rank());
  int last_ = runtime_.size() - 1;
};

TEST_F(RobustnessTest, ABadGradientOnOneRankSkipsTheStepOnAll) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const DType dtype : {fp32, bf16}) {
    ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(dtype), AdEMAMix{.lr = 1e-2},
                               {.bucket_elements = 512});
    ShardedOptimizer untouched(runtime_, testing::awkward_parameters(dtype), AdEMAMix{.lr = 1e-2},
                               {.bucket_elements = 512});
    testing::start(optimizer, runtime_.rank());
    testing::start(untouched, runtime_.rank());
    for (const float bad : {infinity, -infinity, std::nanf(""), 1e30f}) {
      testing::write_gradients(optimizer, 1, rank_);
      if (runtime_.rank() == last_) {
        testing::set_value(optimizer, optimizer.gradient("matrix"), 100, bad);
        testing::set_value(optimizer, optimizer.gradient("matrix"), 77, bad);
      }
      const auto before = testing::snapshot(optimizer);
      const StepReport report = optimizer.step();
      EXPECT_TRUE(report.skipped);
      EXPECT_NE(report.reason.find("'matrix'"), std::string::npos) << report.reason;
      EXPECT_NE(report.reason.find("element 77 "), std::string::npos) << report.reason;
      EXPECT_NE(report.reason.find("rank " + std::to_string(last_)), std::string::npos)
          << report.reason;
      EXPECT_EQ(testing::snapshot(optimizer), before);
    }
    // Nothing of it is left in the state: the next step is as the first.
    for (auto* o : {&optimizer, &untouched}) {
      testing::write_gradients(*o, 2, rank_);
      EXPECT_FALSE(o->step().skipped);
    }
    EXPECT_EQ(testing::snapshot(optimizer), testing::snapshot(untouched));
    EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 5, .updates = 1, .slow_step = 1}));
  }
}

TEST(SmallestTest, OptimizersOfWhichSomeRanksHoldNothingEndOneByOne) {
  RuntimeOptions options = testing::test_options(1);
  options.deadline = std::chrono::seconds(5);
  Runtime runtime = adopt(MPI_COMM_WORLD, options);
  Parameters parameters;
  parameters.add("few", {3}, fp32);
  parameters.add("more", {257}, fp32);
  const auto make = [&] {
    auto optimizer = std::make_unique<ShardedOptimizer>(runtime, parameters, AdEMAMix{.lr = 1e-2},
                                                        OptimizerOptions{.bucket_elements = 256});
    optimizer->broadcast_parameters();
    return optimizer;
  };
  auto first = make();
  auto second = make();
  for (auto* o : {&first, &second}) {
    testing::write_gradients(**o, 1, 0);
    (*o)->step();
  }
  EXPECT_NO_THROW(first.reset());
  testing::write_gradients(*second, 2, 0);
  EXPECT_NO_THROW(second->step());
  EXPECT_NO_THROW(second.reset());
}

TEST_F(RobustnessTest, ABadMicroBatchSkipsTheStepToo) {
  ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), AdamW{});
  testing::start(optimizer, runtime_.rank());
  testing::write_gradients(optimizer, 1, rank_);
  if (runtime_.rank() == last_)
    testing::set_value(optimizer, optimizer.gradient("scalar"), 0, std::nan(""));
  optimizer.accumulate();
  testing::write_gradients(optimizer, 1, rank_);
  const StepReport report = optimizer.step();
  EXPECT_TRUE(report.skipped);
  EXPECT_NE(report.reason.find("'scalar'"), std::string::npos) << report.reason;
  // The next step starts from a clean sum.
  testing::write_gradients(optimizer, 2, rank_);
  EXPECT_FALSE(optimizer.step().skipped);
}

TEST_F(RobustnessTest, SubnormalAndZeroGradientsAreFine) {
  ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), AdEMAMix{});
  testing::start(optimizer, runtime_.rank());
  StepReport report = optimizer.step();
  EXPECT_EQ(report.gradient_norm, 0.0);
  testing::set_value(optimizer, optimizer.gradient("prime"), 3, 1e-44);
  report = optimizer.step();
  EXPECT_FALSE(report.skipped);
  EXPECT_NEAR(report.gradient_norm, runtime_.size() == 3 ? report.gradient_norm : 1e-44, 2e-45);
  EXPECT_GT(report.gradient_norm, 0.0);
  for (const auto& [name, values] : testing::snapshot(optimizer)) {
    for (const double value : values) ASSERT_TRUE(std::isfinite(value)) << name;
  }
}

TEST_F(RobustnessTest, FewerElementsThanRanksAndNoneAtAll) {
  for (const std::int64_t elements : {0, 1, 2}) {
    Parameters parameters;
    parameters.add("tiny", {elements}, bf16);
    ShardedOptimizer optimizer(runtime_, parameters, AdEMAMix{.lr = 1e-2});
    testing::start(optimizer, runtime_.rank());
    testing::write_gradients(optimizer, 1, rank_);
    EXPECT_FALSE(optimizer.step().skipped);
  }
  ShardedOptimizer nothing(runtime_, Parameters{}, AdamW{});
  nothing.broadcast_parameters();
  EXPECT_EQ(nothing.step().gradient_norm, 0.0);
  Parameters all_frozen;
  all_frozen.add("frozen", {100}, fp32, {.trainable = false});
  ShardedOptimizer frozen(runtime_, all_frozen, AdamW{});
  testing::start(frozen, runtime_.rank());
  EXPECT_FALSE(frozen.step().skipped);
  EXPECT_EQ(frozen.memory().gradient, 0);
}

TEST_F(RobustnessTest, WrongCallsAreSentences) {
  ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), AdamW{});
  EXPECT_THROW(optimizer.step(), ConfigError);
  testing::start(optimizer, runtime_.rank());
  EXPECT_THROW((void)optimizer.parameter("missing"), ConfigError);
  EXPECT_THROW((void)optimizer.gradient("frozen"), ConfigError);
  EXPECT_THROW((void)optimizer.parameter("prime").as<std::uint16_t>(), ConfigError);
  EXPECT_THROW(optimizer.broadcast_parameters(runtime_.size()), ConfigError);
  EXPECT_THROW(ShardedOptimizer(runtime_, testing::awkward_parameters(), AdamW{.lr = -1.0}),
               ConfigError);
  EXPECT_THROW(
      ShardedOptimizer(runtime_, testing::awkward_parameters(), AdamW{}, {.clip_norm = -1.0}),
      ConfigError);
  EXPECT_THROW(
      ShardedOptimizer(runtime_, testing::awkward_parameters(), AdamW{}, {.bucket_elements = 100}),
      ConfigError);
}

TEST_F(RobustnessTest, RanksThatDisagreeAreTold) {
  if (runtime_.size() == 1) GTEST_SKIP() << "needs two ranks";
  Parameters shapes;
  shapes.add("weight", {100 + runtime_.rank()}, fp32);
  EXPECT_THROW(ShardedOptimizer(runtime_, shapes, AdamW{}), ConfigError);
  Parameters count;
  for (int i = 0; i <= runtime_.rank(); ++i) count.add("weight" + std::to_string(i), {10}, fp32);
  EXPECT_THROW(ShardedOptimizer(runtime_, count, AdamW{}), ConfigError);
  Parameters same;
  same.add("weight", {10}, fp32);
  EXPECT_THROW(ShardedOptimizer(runtime_, same, AdamW{}, {.clip_norm = 1.0 + runtime_.rank()}),
               ConfigError);
}

TEST_F(RobustnessTest, ViewsStayWhereTheyAre) {
  ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), AdamW{});
  testing::start(optimizer, runtime_.rank());
  const void* parameter = optimizer.parameter("matrix").data;
  const void* gradient = optimizer.gradient("matrix").data;
  EXPECT_EQ(optimizer.parameter("embedding").data, optimizer.parameter("head").data);
  testing::write_gradients(optimizer, 1, rank_);
  optimizer.step();
  ShardedOptimizer moved = std::move(optimizer);
  EXPECT_EQ(moved.parameter("matrix").data, parameter);
  EXPECT_EQ(moved.gradient("matrix").data, gradient);
}

}  // namespace
}  // namespace shardmix
