#include "shardmix/rules.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

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

template <class R, class Change>
void expect_refused(R rule, const Change& change, const std::string& name) {
  change(rule);
  try {
    validate(rule);
    ADD_FAILURE() << name << " was accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
  }
}

TEST(Validate, NamesTheHyperParameter) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {-0.1, 1.0, 1.5, infinity, std::nan("")}) {
    expect_refused(
        AdEMAMix{}, [&](AdEMAMix& r) { r.beta1 = bad; }, "beta1");
    expect_refused(
        AdEMAMix{}, [&](AdEMAMix& r) { r.beta2 = bad; }, "beta2");
    expect_refused(
        AdEMAMix{}, [&](AdEMAMix& r) { r.beta3 = bad; }, "beta3");
    expect_refused(
        AdamW{}, [&](AdamW& r) { r.beta1 = bad; }, "beta1");
  }
  for (const double bad : {-1.0, infinity, std::nan("")}) {
    expect_refused(
        AdEMAMix{}, [&](AdEMAMix& r) { r.alpha = bad; }, "alpha");
    expect_refused(
        AdEMAMix{}, [&](AdEMAMix& r) { r.weight_decay = bad; }, "weight_decay");
    expect_refused(
        AdamW{}, [&](AdamW& r) { r.lr = bad; }, "lr");
  }
  for (const double bad : {0.0, -1e-8, infinity, std::nan("")}) {
    expect_refused(
        AdamW{}, [&](AdamW& r) { r.eps = bad; }, "eps");
  }
  expect_refused(
      AdEMAMix{}, [](AdEMAMix& r) { r.alpha_steps = -1; }, "alpha_steps");
  expect_refused(
      AdEMAMix{}, [](AdEMAMix& r) { r.beta3_steps = -1; }, "beta3_steps");
  EXPECT_NO_THROW(validate(AdEMAMix{}));
  EXPECT_NO_THROW(validate(AdEMAMix{.beta1 = 0.0}));
  EXPECT_NO_THROW(validate(AdamW{}));
}

TEST(States, FollowFromTheRule) {
  EXPECT_EQ(states_of(AdamW{}), (RuleStates{.m1 = true, .m2 = false, .v = true}));
  EXPECT_EQ(states_of(AdEMAMix{}), (RuleStates{.m1 = true, .m2 = true, .v = true}));
  EXPECT_EQ(states_of(AdEMAMix{.beta1 = 0.0}), (RuleStates{.m1 = false, .m2 = true, .v = true}));
}

}  // namespace
}  // namespace shardmix
