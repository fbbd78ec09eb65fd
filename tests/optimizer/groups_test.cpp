// Hyper-parameters of a group in place of the rule's.

#include <gtest/gtest.h>

#include "optimizer/support.hpp"

namespace shardmix {
namespace {

using testing::config_error;

class GroupsTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));

  /// Two parameters that start alike and see the same gradients, the second in `group`.
  static Parameters twins(const Group& group) {
    Parameters parameters;
    parameters.add("plain", {700}, fp32);
    parameters.add("other", {700}, fp32, group);
    return parameters;
  }

  /// Their values after some steps.
  std::map<std::string, std::vector<double>> trained(const Rule& rule, const Group& group,
                                                     StateFormat state) {
    ShardedOptimizer optimizer(runtime_, twins(group), rule, {.state = state});
    const auto fill = [&](const TensorView& view, std::uint32_t step) {
      const testing::OnHost host(optimizer, view);
      for (std::int64_t i = 0; i < view.elements; ++i)
        testing::set_value(host.view(), i,
                           testing::noise(1, step, 0, static_cast<std::uint32_t>(i)));
    };
    for (const char* name : {"plain", "other"}) fill(optimizer.parameter(name), 0);
    optimizer.broadcast_parameters();
    for (std::uint32_t step = 1; step <= 5; ++step) {
      for (const char* name : {"plain", "other"}) fill(optimizer.gradient(name), step);
      optimizer.step();
    }
    return testing::snapshot(optimizer);
  }
};

TEST_F(GroupsTest, AnOverrideIsTheRuleWithThatNumberInThatGroupAlone) {
  struct Override {
    Rule rule;
    Rule changed;
    Group group;
  };
  for (const Override& o : {
           Override{AdEMAMix{}, AdEMAMix{.beta2 = 0.5}, {.hyper_parameters = {{"beta2", 0.5}}}},
           Override{AdEMAMix{},
                    AdEMAMix{.beta3 = 0.99, .alpha = 3.0},
                    {.hyper_parameters = {{"beta3", 0.99}, {"alpha", 3.0}}}},
           Override{AdEMAMix{}, AdEMAMix{.beta1 = 0.0}, {.hyper_parameters = {{"beta1", 0.0}}}},
           Override{AdamW{}, AdamW{.eps = 0.1}, {.hyper_parameters = {{"eps", 0.1}}}},
           Override{AdamW{}, AdamW{.weight_decay = 0.5}, {.weight_decay = 0.5}},
           Override{
               AdamW{}, AdamW{.weight_decay = 0.5}, {.hyper_parameters = {{"weight_decay", 0.5}}}},
           Override{SimplifiedAdEMAMix{},
                    SimplifiedAdEMAMix{.beta1 = 0.5, .min_beta1 = 0.25},
                    {.hyper_parameters = {{"beta1", 0.5}, {"min_beta1", 0.25}}}},
           Override{Lion{}, Lion{.beta1 = 0.2}, {.hyper_parameters = {{"beta1", 0.2}}}},
       }) {
    SCOPED_TRACE(name_of(o.rule));
    // In full state alone: compact state rounds each block by its own random numbers.
    const auto found = trained(o.rule, o.group, StateFormat::full);
    const auto plain = trained(o.rule, {}, StateFormat::full);
    const auto changed = trained(o.changed, {}, StateFormat::full);
    EXPECT_EQ(found.at("plain"), plain.at("plain"));
    EXPECT_EQ(found.at("other"), changed.at("other"));
    EXPECT_NE(found.at("other"), plain.at("other"));
    EXPECT_EQ(trained(o.rule, o.group, StateFormat::compact).at("plain"),
              trained(o.rule, {}, StateFormat::compact).at("plain"));
  }
}

TEST_F(GroupsTest, ABadOneIsRefusedOnAllRanksByName) {
  struct Bad {
    Rule rule;
    std::map<std::string, double> numbers;
    const char* part;
  };
  for (const Bad& bad : {Bad{AdEMAMix{}, {{"beta2", 1.5}}, "beta2 of ademamix must be"},
                         Bad{AdEMAMix{}, {{"beta9", 0.5}}, "sets 'beta9', but ademamix"},
                         Bad{Lion{}, {{"eps", 0.5}}, "it has beta1, beta2, weight_decay"},
                         Bad{AdEMAMix{.beta1 = 0.0}, {{"beta1", 0.5}}, "needs a state"}}) {
    for (const bool everywhere : {true, false}) {
      // Where one rank alone has it, that rank's message is everyone's.
      const bool own = everywhere || runtime_.rank() == runtime_.size() - 1;
      const Group group{.hyper_parameters = own ? bad.numbers : std::map<std::string, double>{}};
      const std::string error =
          config_error([&] { const ShardedOptimizer optimizer(runtime_, twins(group), bad.rule); });
      EXPECT_NE(error.find("parameter 'other': "), std::string::npos) << error;
      EXPECT_NE(error.find(bad.part), std::string::npos) << error;
    }
  }
}

TEST_F(GroupsTest, ARuleThatLacksTheNumberIsNotSwitchedTo) {
  ShardedOptimizer optimizer(runtime_, twins({.hyper_parameters = {{"eps", 1e-6}}}), AdamW{});
  optimizer.broadcast_parameters();
  const std::string error = config_error([&] { optimizer.switch_rule(Lion{}); });
  EXPECT_NE(error.find("parameter 'other'"), std::string::npos) << error;
  EXPECT_EQ(optimizer.rule(), Rule(AdamW{}));
  EXPECT_FALSE(optimizer.step().skipped);
}

TEST_F(GroupsTest, RanksThatSetOthersAreTold) {
  if (runtime_.size() == 1) GTEST_SKIP() << "needs two ranks";
  const Group group{.hyper_parameters = {{"beta2", 0.5 + 0.01 * runtime_.rank()}}};
  const std::string error =
      config_error([&] { const ShardedOptimizer optimizer(runtime_, twins(group), AdamW{}); });
  EXPECT_NE(error.find("parameter 1 differs between the ranks"), std::string::npos) << error;
}

}  // namespace
}  // namespace shardmix
