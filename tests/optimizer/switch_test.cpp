// From one rule to another in the middle of a run.

#include <gtest/gtest.h>

#include "comm/runtime_impl.hpp"
#include "comm/transports.hpp"
#include "optimizer/support.hpp"
#include "support/forwarding_device.hpp"
#include "support/states.hpp"

namespace shardmix {
namespace {

using testing::config_error;
using testing::states_of_shard;

/// A device that has no room, while it is said so.
class FullDevice final : public testing::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  bool is_full = false;

  void* allocate(std::size_t bytes, device::MemoryKind kind) override {
    if (is_full) throw DeviceError("full");
    return ForwardingDevice::allocate(bytes, kind);
  }
};

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
  /// it, is zero, that no other is there, and that the report says so.
  void expect_switch(ShardedOptimizer& optimizer, const Rule& rule,
                     const std::vector<std::string>& kept) {
    auto expected = states_of_shard(optimizer);
    const auto parameters = testing::snapshot(optimizer);
    for (const std::string& name : kept) {
      // A tiny model leaves some ranks without elements.
      EXPECT_TRUE(expected.at(name).empty() || !is_zero(expected.at(name))) << name;
    }
    const std::string before(name_of(optimizer.rule()));
    const SwitchReport report = optimizer.switch_rule(rule);
    EXPECT_EQ(optimizer.rule(), rule);
    EXPECT_EQ(report.from, before);
    EXPECT_EQ(report.to, name_of(rule));
    EXPECT_EQ(report.step, optimizer.clocks().step);
    EXPECT_EQ(report.slow_step, optimizer.clocks().slow_step);
    EXPECT_EQ(report.m2, M2Start::zero);
    std::vector<std::string> all_kept{"master"};
    all_kept.insert(all_kept.end(), kept.begin(), kept.end());
    EXPECT_EQ(report.kept, all_kept);
    for (const auto& [name, values] : expected) {
      const bool is_kept = std::ranges::find(all_kept, name) != all_kept.end();
      EXPECT_NE(std::ranges::find(report.dropped, name) != report.dropped.end(), is_kept) << name;
    }
    EXPECT_EQ(testing::snapshot(optimizer), parameters);
    const auto found = states_of_shard(optimizer);
    EXPECT_EQ(found.at("master"), expected.at("master"));
    for (const std::string& name : kept) EXPECT_EQ(found.at(name), expected.at(name)) << name;
    const bool m2_begins = states_of(rule).m2 && std::ranges::find(kept, "m2") == kept.end();
    EXPECT_EQ(found.size(), 1 + kept.size() + (m2_begins ? 1 : 0));
    EXPECT_EQ(report.started,
              m2_begins ? std::vector<std::string>{"m2"} : std::vector<std::string>{});
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
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 5, .updates = 5, .slow_step = 0}));
  expect_switch(optimizer, ademamix, {"m1", "v"});
}

/// The oracle corrects in double what it reads of m1; compact m2 has 10 bits below the first, and
/// equal steps far below the block's largest.
TEST_P(SwitchTest, M2StartsAtTheBiasCorrectedM1) {
  ShardedOptimizer optimizer = trained(AdamW{.lr = 1e-2});
  const auto before = states_of_shard(optimizer);
  const SwitchReport report = optimizer.switch_rule(ademamix, {.m2 = M2Start::from_m1});
  EXPECT_EQ(report, (SwitchReport{.from = "adamw",
                                  .to = "ademamix",
                                  .step = 3,
                                  .kept = {"master", "m1", "v"},
                                  .started = {"m2"},
                                  .m2 = M2Start::from_m1}));
  const auto after = states_of_shard(optimizer);
  for (const char* name : {"master", "m1", "v"}) EXPECT_EQ(after.at(name), before.at(name));
  const double correction = 1.0 / (1.0 - 0.9 * 0.9 * 0.9);
  const double precision = GetParam() == StateFormat::full ? 0x1p-23 : 0x1p-11;
  const std::vector<float>& m1 = before.at("m1");
  ASSERT_EQ(after.at("m2").size(), m1.size());
  for (std::size_t i = 0; i < m1.size(); ++i) {
    const double expected = correction * m1[i];
    ASSERT_NEAR(after.at("m2")[i], expected, precision * std::fabs(expected) + 1e-8) << i;
  }
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 3, .updates = 3, .slow_step = 0}));
  EXPECT_FALSE(step(optimizer).skipped);
}

TEST_P(SwitchTest, M2FromM1IsCorrectedByEachGroupsBeta1) {
  Parameters parameters;
  parameters.add("plain", {700}, fp32);
  parameters.add("other", {700}, fp32, {.hyper_parameters = {{"beta1", 0.5}}});
  ShardedOptimizer optimizer(runtime_, parameters, AdamW{}, {.state = GetParam()});
  testing::start(optimizer, runtime_.rank());
  step(optimizer);
  optimizer.switch_rule(AdEMAMix{}, {.m2 = M2Start::from_m1});
  // After one update m1 / (1 - beta1) is the gradient, whatever beta1 is.
  const auto states = states_of_shard(optimizer);
  const optimizer::ShardedState& state = optimizer.impl().state;
  std::size_t at = 0;
  for (const layout::ShardSlice& slice : state.shard().slices) {
    for (const layout::Piece& piece : state.layout().pieces(slice.range)) {
      for (std::int64_t i = 0; i < piece.count; ++i, ++at) {
        double mean = 0.0;
        for (int rank = 0; rank < runtime_.size(); ++rank) {
          mean += testing::noise(100 + static_cast<std::uint32_t>(rank), 1,
                                 static_cast<std::uint32_t>(piece.parameter + 1),
                                 static_cast<std::uint32_t>(piece.offset + i)) /
                  runtime_.size();
        }
        // m1's code has three bits below the first, and steps of 2^-19 of the block's largest.
        const double tolerance = GetParam() == StateFormat::full ? 1e-6 : 0.13 * std::fabs(mean);
        ASSERT_NEAR(states.at("m2")[at], mean, tolerance + 2e-5) << piece.parameter << " " << i;
      }
    }
  }
}

TEST_P(SwitchTest, BeforeTheFirstUpdateM2FromM1IsZero) {
  ShardedOptimizer optimizer = trained(AdamW{}, 0);
  optimizer.switch_rule(ademamix, {.m2 = M2Start::from_m1});
  EXPECT_TRUE(is_zero(states_of_shard(optimizer).at("m2")));
  EXPECT_FALSE(step(optimizer).skipped);
}

TEST_P(SwitchTest, M2ThatGoesOnDoesNotStartFromM1) {
  ShardedOptimizer optimizer = trained(ademamix);
  const auto before = states_of_shard(optimizer);
  const SwitchReport report = optimizer.switch_rule(AdEMAMix{}, {.m2 = M2Start::from_m1});
  EXPECT_EQ(report.m2, M2Start::zero);
  EXPECT_EQ(states_of_shard(optimizer), before);
}

TEST_P(SwitchTest, M2FromM1IsRefusedWhereItMakesNoSense) {
  for (const auto& [rule, part] :
       {std::pair<Rule, const char*>{SimplifiedAdEMAMix{}, "it is a sum of gradients"},
        std::pair<Rule, const char*>{AdEMAMix{.beta1 = 0.0},
                                     "ademamix (with beta1 = 0) keeps none"}}) {
    ShardedOptimizer optimizer = trained(AdamW{});
    const auto states = states_of_shard(optimizer);
    const std::string error =
        config_error([&] { optimizer.switch_rule(rule, {.m2 = M2Start::from_m1}); });
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_EQ(optimizer.rule(), Rule(AdamW{}));
    EXPECT_EQ(states_of_shard(optimizer), states);
  }
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

TEST_P(SwitchTest, WithoutRoomOnOneRankNothingChanges) {
  auto full = std::make_unique<FullDevice>(std::move(runtime_.impl().device));
  FullDevice& device = *full;
  runtime_.impl().device = std::move(full);
  runtime_.impl().collectives_owner =
      comm::make_collectives("mpi", *runtime_.impl().group, device, false);
  ShardedOptimizer optimizer = trained(AdamW{});
  const auto states = states_of_shard(optimizer);
  const auto parameters = testing::snapshot(optimizer);
  device.is_full = runtime_.rank() == 0;
  EXPECT_THROW(optimizer.switch_rule(ademamix), DeviceError);
  device.is_full = false;
  EXPECT_EQ(optimizer.rule(), Rule(AdamW{}));
  EXPECT_EQ(states_of_shard(optimizer), states);
  EXPECT_EQ(testing::snapshot(optimizer), parameters);
  EXPECT_FALSE(step(optimizer).skipped);
  optimizer.switch_rule(ademamix);
  EXPECT_FALSE(step(optimizer).skipped);
}

TEST(DescribeSwitch, SaysWhatBecameOfEachState) {
  EXPECT_EQ(describe({.from = "adamw",
                      .to = "ademamix",
                      .step = 6,
                      .kept = {"master", "m1", "v"},
                      .started = {"m2"}}),
            "switched from adamw to ademamix at step 6: master, m1, v and the step are kept; m2 "
            "starts at zero, and the slow step at 0");
  EXPECT_EQ(describe({.from = "adamw",
                      .to = "ademamix",
                      .step = 6,
                      .kept = {"master", "v"},
                      .started = {"m2"},
                      .dropped = {"m1"},
                      .m2 = M2Start::from_m1}),
            "switched from adamw to ademamix at step 6: master, v and the step are kept; m2 starts "
            "from m1, and the slow step at 0; dropped: m1");
  EXPECT_EQ(describe({.from = "ademamix",
                      .to = "ademamix",
                      .step = 6,
                      .kept = {"master", "m2", "v"},
                      .dropped = {"m1"},
                      .slow_step = 4}),
            "ademamix goes on from step 6: master, m2, v and the step are kept; the slow step goes "
            "on from 4; dropped: m1");
  EXPECT_EQ(describe({.from = "ademamix",
                      .to = "adamw",
                      .step = 6,
                      .kept = {"master", "m1", "v"},
                      .dropped = {"m2"}}),
            "switched from ademamix to adamw at step 6: master, m1, v and the step are kept; "
            "dropped: m2");
}

INSTANTIATE_TEST_SUITE_P(Formats, SwitchTest,
                         ::testing::Values(StateFormat::full, StateFormat::compact),
                         [](const auto& format) {
                           return format.param == StateFormat::full ? "Full" : "Compact";
                         });

}  // namespace
}  // namespace shardmix
