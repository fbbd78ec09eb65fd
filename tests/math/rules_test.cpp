#include "shardmix/rules.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "math/update_rules.hpp"
#include "shardmix/error.hpp"
#include "support/reference.hpp"

namespace shardmix {
namespace {

TEST(AdEMAMixSchedules, FollowThePaper) {
  const AdEMAMix rule{.lr = cosine(1e-3, {.steps = 1000}), .beta3 = 0.9999, .alpha = 8.0};
  for (const long s : {1L, 2L, 10L, 500L, 999L, 1000L, 5000L}) {
    EXPECT_DOUBLE_EQ(rule.alpha_at(s), testing::reference_alpha(rule, s)) << s;
    EXPECT_NEAR(rule.beta3_at(s), testing::reference_beta3(rule, s), 1e-13) << s;
  }
  EXPECT_EQ(rule.alpha_at(1000), 8.0);
  EXPECT_EQ(rule.beta3_at(1000), 0.9999);
  // The half-life is by then that of beta1 and a thousandth of that of beta3.
  EXPECT_NEAR(rule.beta3_at(1), 0.95, 1e-3);
}

TEST(AdEMAMixSchedules, AreOptional) {
  const AdEMAMix without{.lr = cosine(1e-3, {.steps = 1000}), .alpha_steps = 0, .beta3_steps = 0};
  EXPECT_EQ(without.alpha_at(1), without.alpha);
  EXPECT_EQ(without.beta3_at(1), without.beta3);
  const AdEMAMix constant_lr{.lr = 1e-3};
  EXPECT_EQ(constant_lr.alpha_at(1), constant_lr.alpha);
  const AdEMAMix own{.lr = 1e-3, .alpha_steps = 10, .beta3_steps = 20};
  EXPECT_DOUBLE_EQ(own.alpha_at(5), own.alpha / 2);
  EXPECT_LT(own.beta3_at(19), own.beta3);
}

TEST(AdEMAMixSchedules, BetaOneZeroIsTheLimit) {
  const AdEMAMix zero{.lr = 1e-3, .beta1 = 0.0, .beta3_steps = 100};
  AdEMAMix nearly = zero;
  nearly.beta1 = 1e-300;
  EXPECT_NEAR(zero.beta3_at(50), nearly.beta3_at(50), 1e-5);
  EXPECT_DOUBLE_EQ(zero.beta3_at(50), 0.9999 * 0.9999);
}

TEST(SimplifiedAdEMAMixSchedule, FollowsTheHalfLife) {
  const SimplifiedAdEMAMix rule{.lr = cosine(1e-3, {.steps = 1000}), .beta1 = 0.999};
  for (const long s : {1L, 2L, 10L, 500L, 999L, 1000L, 5000L}) {
    EXPECT_NEAR(rule.beta1_at(s), testing::reference_beta(0.9, 0.999, s, 1000), 1e-13) << s;
  }
  EXPECT_EQ(rule.beta1_at(1000), 0.999);
  EXPECT_EQ((SimplifiedAdEMAMix{.lr = 1e-3, .beta1 = 0.999}.beta1_at(1)), 0.999);
  // A schedule that would begin above its end is none.
  const SimplifiedAdEMAMix falling{.beta1 = 0.8, .min_beta1 = 0.9, .beta1_steps = 100};
  EXPECT_EQ(falling.beta1_at(1), 0.8);
}

// What follows goes over each rule's own list of hyper-parameters: a new rule is covered as it is.

constexpr double infinity = std::numeric_limits<double>::infinity();

struct RangeCase {
  std::string words;  ///< as an error says it
  std::vector<double> good;
  std::vector<double> bad;
};

RangeCase case_of(math::Range range) {
  const double nan = std::nan("");
  const double least = std::numeric_limits<double>::denorm_min();
  switch (range) {
    case math::Range::beta:
      return {"at least 0 and below 1",
              {0.0, least, 0.5, std::nextafter(1.0, 0.0)},
              {nan, -nan, infinity, -infinity, -least, -0.1, 1.0, 1.5}};
    case math::Range::positive:
      return {"above 0 and finite in fp32",
              {1e-40, 1e-12, 1e-8, 1.0},
              {nan, infinity, -infinity, 0.0, -0.0, -1.0, 1e-50, 1e39}};
    case math::Range::non_negative:
      break;
  }
  return {"at least 0 and finite in fp32",
          {0.0, -0.0, least, 1.0, 1e6},
          {nan, infinity, -infinity, -least, -1.0, 1e39}};
}

template <class Visit>
void for_each_rule(const Visit& visit) {
  for (const Rule& rule : all_rules()) std::visit(visit, rule);
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Validate, AcceptsTheDefaults) {
  for (const Rule& rule : all_rules()) EXPECT_NO_THROW(validate(rule)) << name_of(rule);
}

TEST(Validate, SaysWhichNumberIsOutOfItsRangeAndWhatWasFound) {
  for_each_rule([]<class R>(const R& defaults) {
    for (const auto& number : math::Spec<R>::numbers) {
      const RangeCase range = case_of(number.range);
      for (const double bad : range.bad) {
        R rule = defaults;
        rule.*number.value = bad;
        EXPECT_EQ(message_of([&] { validate(rule); }),
                  fmt::format("{} of {} must be {}, but is {}", number.name, math::Spec<R>::name,
                              range.words, bad));
      }
      for (const double good : range.good) {
        R rule = defaults;
        rule.*number.value = good;
        EXPECT_EQ(message_of([&] { validate(rule); }), "no error") << number.name << " " << good;
      }
    }
  });
}

TEST(Validate, SaysWhichLengthIsNegative) {
  for_each_rule([]<class R>(const R& defaults) {
    for (const auto& length : math::Spec<R>::lengths) {
      for (const std::int64_t bad : {std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
        R rule = defaults;
        rule.*length.steps = bad;
        EXPECT_EQ(message_of([&] { validate(rule); }),
                  fmt::format("{} of {} must be at least 0 (0: no schedule), but is {}",
                              length.name, math::Spec<R>::name, bad));
      }
      for (const auto& good : {std::optional<std::int64_t>(), std::optional<std::int64_t>(0),
                               std::optional(std::numeric_limits<std::int64_t>::max())}) {
        R rule = defaults;
        rule.*length.steps = good;
        EXPECT_EQ(message_of([&] { validate(rule); }), "no error") << length.name;
      }
    }
  });
}

TEST(Validate, SaysWhatIsWrongWithTheLearningRate) {
  for_each_rule([]<class R>(const R& defaults) {
    for (const double bad : {-1.0, infinity, -infinity, std::nan("")}) {
      R rule = defaults;
      rule.lr = bad;
      EXPECT_EQ(message_of([&] { validate(rule); }),
                fmt::format("lr of {}: the peak value must be at least 0 and finite, but is {}",
                            math::Spec<R>::name, bad));
    }
    R rule = defaults;
    rule.lr = cosine(1e-3, {.warmup = 20, .steps = 10});
    EXPECT_NE(message_of([&] { validate(rule); }), "no error");
  });
}

TEST(RuleNames, AndRulesAreEachOthersInverse) {
  const std::vector<Rule> rules = all_rules();
  ASSERT_EQ(rules.size(), std::variant_size_v<Rule>);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    EXPECT_EQ(rules[i].index(), i);
    EXPECT_EQ(rule_named(name_of(rules[i])), rules[i]);
  }
  EXPECT_EQ(name_of(SimplifiedAdEMAMix{}), "simplified-ademamix");
  EXPECT_EQ(message_of([] { (void)rule_named("adam"); }),
            "there is no update rule 'adam'; expected one of ademamix, adamw, "
            "simplified-ademamix, lion");
}

TEST(HyperParameters, AreAllVisitedUnderTheirNames) {
  for_each_rule([]<class R>(const R& rule) {
    std::map<std::string, double> found;
    math::for_each_hyper_parameter(rule, [&](std::string_view name, auto value) {
      EXPECT_TRUE(found.emplace(name, static_cast<double>(value)).second) << name;
    });
    EXPECT_EQ(found.size(), math::Spec<R>::numbers.size() + math::Spec<R>::lengths.size());
    for (const auto& number : math::Spec<R>::numbers)
      EXPECT_EQ(found.at(std::string(number.name)), rule.*number.value) << number.name;
  });
  AdEMAMix rule{.lr = cosine(1e-3, {.steps = 77}), .alpha_steps = 5};
  std::map<std::string, std::int64_t> lengths;
  math::for_each_hyper_parameter(rule, [&](std::string_view name, auto value) {
    if constexpr (std::is_same_v<decltype(value), std::int64_t>) lengths.emplace(name, value);
  });
  EXPECT_EQ(lengths,
            (std::map<std::string, std::int64_t>{{"alpha_steps", 5}, {"beta3_steps", 77}}));
}

TEST(Groups, SetEachNumberOfTheRule) {
  for_each_rule([]<class R>(const R& defaults) {
    for (const auto& number : math::Spec<R>::numbers) {
      const Group group{.hyper_parameters = {{std::string(number.name), 0.25}}};
      R expected = defaults;
      expected.*number.value = 0.25;
      EXPECT_EQ(rule_for(defaults, group), Rule(expected)) << number.name;
      for (const double bad : case_of(number.range).bad) {
        const Group wrong{.hyper_parameters = {{std::string(number.name), bad}}};
        EXPECT_EQ(message_of([&] { (void)rule_for(defaults, wrong); }),
                  fmt::format("{} of {} must be {}, but is {}", number.name, math::Spec<R>::name,
                              case_of(number.range).words, bad));
      }
    }
    EXPECT_EQ(rule_for(defaults, Group{}), Rule(defaults));
    EXPECT_EQ(rule_for(defaults, {.lr_scale = 0.5, .trainable = false}), Rule(defaults));
    R without = defaults;
    without.weight_decay = 0.0;
    EXPECT_EQ(rule_for(defaults, {.weight_decay = 0.0}), Rule(without));
    EXPECT_NE(message_of([&] { (void)rule_for(defaults, {.weight_decay = -1.0}); }), "no error");
  });
}

TEST(Groups, SayWhichNamesThereAreInPlaceOfAnUnknownOne) {
  for_each_rule([]<class R>(const R& rule) {
    std::vector<std::string_view> names;
    for (const auto& number : math::Spec<R>::numbers) names.push_back(number.name);
    for (const std::string name : {"gamma", "", "Beta1", "lr"}) {
      EXPECT_EQ(message_of([&] {
                  (void)rule_for(rule, {.hyper_parameters = {{name, 0.5}}});
                }),
                fmt::format("a group of parameters sets '{}', but {} has no such number; it has {}",
                            name, math::Spec<R>::name, fmt::join(names, ", ")));
    }
  });
}

TEST(Groups, CannotNeedAStateThatTheRuleDoesNotKeep) {
  const AdEMAMix without{.beta1 = 0.0};
  EXPECT_EQ(message_of([&] {
              (void)rule_for(without, {.hyper_parameters = {{"beta1", 0.9}}});
            }),
            "a group of parameters changes ademamix so that it needs a state that the rule itself "
            "doesn't keep (m1, where beta1 is 0); give the rule that value");
  EXPECT_NO_THROW((void)rule_for(AdEMAMix{}, {.hyper_parameters = {{"beta1", 0.0}}}));
  EXPECT_NO_THROW((void)rule_for(without, {.hyper_parameters = {{"beta1", 0.0}, {"alpha", 1.0}}}));
}

TEST(Groups, ChangeTheKernelOfTheirParameters) {
  const math::StepClocks clocks{.step = 3, .update = 3, .slow_step = 3};
  for (const Rule& rule : all_rules()) {
    const auto weight_after = [&](const Group& group) {
      return std::visit(
          [](const auto& kernel) {
            math::Moments s{.m1 = 0.5f, .m2 = 0.25f, .v = 0.1f};
            math::Roots roots;
            return kernel(0.3f, 1.0f, s, roots);
          },
          math::update_kernel(rule, group, clocks));
    };
    const float usual = weight_after({});
    EXPECT_EQ(weight_after({.lr_scale = 0.0}), 1.0f) << name_of(rule);
    EXPECT_NEAR(1.0f - weight_after({.lr_scale = 0.5}), 0.5f * (1.0f - usual), 1e-6f);
    EXPECT_GT(weight_after({.weight_decay = 0.0}), usual) << name_of(rule);
    if (std::holds_alternative<Lion>(rule)) continue;
    EXPECT_NE(weight_after({.hyper_parameters = {{"beta2", 0.5}}}), usual) << name_of(rule);
  }
}

TEST(States, FollowFromTheRule) {
  EXPECT_EQ(states_of(AdamW{}), (RuleStates{.m1 = true, .m2 = false, .v = true}));
  EXPECT_EQ(states_of(AdEMAMix{}), (RuleStates{.m1 = true, .m2 = true, .v = true}));
  EXPECT_EQ(states_of(AdEMAMix{.beta1 = 0.0}), (RuleStates{.m1 = false, .m2 = true, .v = true}));
  EXPECT_EQ(states_of(SimplifiedAdEMAMix{}),
            (RuleStates{.m1 = false, .m2 = true, .v = true, .m2_is_sum = true}));
  EXPECT_EQ(states_of(Lion{}), (RuleStates{.m1 = true, .m2 = false, .v = false}));
}

// A state that isn't kept comes as zero, and nothing else may depend on what becomes of it.
TEST(States, ThatAreNotKeptChangeNothing) {
  for (const Rule& rule : {Rule(AdEMAMix{}), Rule(AdEMAMix{.beta1 = 0.0}), Rule(AdamW{}),
                           Rule(SimplifiedAdEMAMix{}), Rule(Lion{})}) {
    const RuleStates kept = states_of(rule);
    const auto kernel =
        math::update_kernel(rule, Group{}, {.step = 1, .update = 1, .slow_step = 1});
    std::visit(
        [&](const auto& k) {
          math::Moments s{};
          math::Roots roots;
          (void)k(0.7f, 1.0f, s, roots);
          EXPECT_EQ(kept.m1, s.m1 != 0.0f) << name_of(rule);
          EXPECT_EQ(kept.m2, s.m2 != 0.0f) << name_of(rule);
          EXPECT_EQ(kept.v, s.v != 0.0f) << name_of(rule);
        },
        kernel);
  }
}

}  // namespace
}  // namespace shardmix
