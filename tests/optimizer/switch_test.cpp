// From one rule to another in the middle of a run.

#include <gtest/gtest.h>

#include "optimizer/support.hpp"
#include "support/states.hpp"

namespace shardmix {
namespace {

using testing::config_error;
using testing::states_of_shard;

class SwitchTest : public ::testing::TestWithParam<StateFormat> {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  std::uint32_t rank_ = static_cast<std::uint32_t>(runtime_.rank());

  /// An optimizer after `steps` steps of `rule`.
  ShardedOptimizer trained(const Rule& rule, int steps = 3) {
    ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(bf16), rule,
                               {.state = GetParam(), .bucket_elements = 1024});
    testing::start(optimizer, runtime_.rank());
    for (int i = 0; i < steps; ++i) step(optimizer);
    return optimizer;
  }

  StepReport step(ShardedOptimizer& optimizer) {
    testing::write_gradients(optimizer, static_cast<std::uint32_t>(optimizer.clocks().step + 1),
                             rank_);
    return optimizer.step();
  }

  static bool is_zero(const std::vector<float>& values) {
    return std::ranges::all_of(values, [](float x) { return x == 0.0f; });
  }

  /// Switches, and expects that the states of `kept` are what they were, that m2, if the rule has
  /// it, is zero, and that no other is there.
  void expect_switch(ShardedOptimizer& optimizer, const Rule& rule,
                     const std::vector<std::string>& kept) {
    auto expected = states_of_shard(optimizer);
    const auto parameters = testing::snapshot(optimizer);
    for (const std::string& name : kept) {
      // A tiny model leaves some ranks without elements.
      EXPECT_TRUE(expected.at(name).empty() || !is_zero(expected.at(name))) << name;
    }
    optimizer.switch_rule(rule);
    EXPECT_EQ(optimizer.rule(), rule);
    EXPECT_EQ(testing::snapshot(optimizer), parameters);
    const auto found = states_of_shard(optimizer);
    EXPECT_EQ(found.at("master"), expected.at("master"));
    for (const std::string& name : kept) EXPECT_EQ(found.at(name), expected.at(name)) << name;
    const bool m2_begins = states_of(rule).m2 && std::ranges::find(kept, "m2") == kept.end();
    EXPECT_EQ(found.size(), 1 + kept.size() + (m2_begins ? 1 : 0));
    if (m2_begins) {
      EXPECT_TRUE(is_zero(found.at("m2")));
    }
    EXPECT_EQ(optimizer.memory(), plan_memory(optimizer.parameters(), rule, runtime_.rank(),
                                              runtime_.size(), optimizer.options()));
  }
};

const AdEMAMix ademamix{.lr = 1e-2, .alpha_steps = 10, .beta3_steps = 10};

TEST_P(SwitchTest, AdamWToAdEMAMixKeepsM1AndVAndStartsM2) {
  ShardedOptimizer optimizer = trained(AdamW{.lr = 1e-2});
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 3, .updates = 3, .slow_step = 0}));
  expect_switch(optimizer, ademamix, {"m1", "v"});
  const StepReport report = step(optimizer);
  EXPECT_EQ(report.alpha, ademamix.alpha_at(1));
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 4, .updates = 4, .slow_step = 1}));
  expect_switch(optimizer, AdamW{}, {"m1", "v"});
  EXPECT_EQ(step(optimizer).alpha, 0.0);
}

TEST_P(SwitchTest, TheSameStatesStay) {
  ShardedOptimizer optimizer = trained(ademamix);
  expect_switch(optimizer, AdEMAMix{.lr = 1e-3}, {"m1", "m2", "v"});
  EXPECT_EQ(optimizer.clocks().slow_step, 3);
  step(optimizer);
  EXPECT_EQ(optimizer.clocks().slow_step, 4);
}

/// One's m2 is an average, the other's a sum.
TEST_P(SwitchTest, BetweenAverageAndSumM2BeginsAnew) {
  ShardedOptimizer optimizer = trained(ademamix);
  expect_switch(optimizer, SimplifiedAdEMAMix{}, {"v"});
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 3, .updates = 3, .slow_step = 0}));
  step(optimizer);
  step(optimizer);
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 5, .updates = 5, .slow_step = 2}));
  expect_switch(optimizer, AdEMAMix{.beta1 = 0.0}, {"v"});
  EXPECT_EQ(optimizer.clocks().slow_step, 0);
  EXPECT_FALSE(step(optimizer).skipped);
}

TEST_P(SwitchTest, AdamWToLionKeepsM1) {
  ShardedOptimizer optimizer = trained(AdamW{.lr = 1e-2});
  expect_switch(optimizer, Lion{}, {"m1"});
  EXPECT_FALSE(step(optimizer).skipped);
}

TEST_P(SwitchTest, ARuleWithoutItsStateIsRefused) {
  struct Case {
    Rule from;
    Rule to;
    const char* part;
  };
  for (const Case& c :
       {Case{Lion{}, AdamW{}, "adamw needs v, which lion has not kept"},
        Case{Lion{}, ademamix, "ademamix needs v, which lion has not kept"},
        Case{Lion{}, SimplifiedAdEMAMix{}, "simplified-ademamix needs v"},
        Case{SimplifiedAdEMAMix{}, AdamW{}, "adamw needs m1, which simplified-ademamix has not"},
        Case{SimplifiedAdEMAMix{}, ademamix, "beta1 = 0"},
        Case{AdEMAMix{.beta1 = 0.0}, AdamW{}, "adamw needs m1"}}) {
    ShardedOptimizer optimizer = trained(c.from, 1);
    const auto states = states_of_shard(optimizer);
    const std::string error = config_error([&] { optimizer.switch_rule(c.to); });
    EXPECT_NE(error.find(c.part), std::string::npos) << error;
    EXPECT_EQ(optimizer.rule(), c.from);
    EXPECT_EQ(states_of_shard(optimizer), states);
    EXPECT_FALSE(step(optimizer).skipped);
    // Before the first update there is nothing to lose.
    ShardedOptimizer fresh = trained(c.from, 0);
    fresh.switch_rule(c.to);
    EXPECT_FALSE(step(fresh).skipped);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, SwitchTest,
                         ::testing::Values(StateFormat::full, StateFormat::compact),
                         [](const auto& format) {
                           return format.param == StateFormat::full ? "Full" : "Compact";
                         });

}  // namespace
}  // namespace shardmix
