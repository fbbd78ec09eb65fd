#include <gtest/gtest.h>

#include "shardmix/rules.hpp"

namespace shardmix {
namespace {

TEST(AutoBeta3, RemembersAFifthOfTheRunWithinItsBounds) {
  EXPECT_DOUBLE_EQ(auto_beta3(1000), 1.0 - 1.0 / 200.0);
  EXPECT_DOUBLE_EQ(auto_beta3(49'999), 1.0 - 1.0 / 9999.8);
  EXPECT_EQ(auto_beta3(50'001), 0.9999);
  EXPECT_EQ(auto_beta3(256'000), 0.9999);
  EXPECT_EQ(auto_beta3(10), 0.9);
  EXPECT_EQ(auto_beta3(100, 0.99), 0.99);
  EXPECT_EQ(auto_beta3(1, 0.0), 0.0);
}

TEST(Beta3Advice, IsGivenOnlyWhereTheMemoryIsLongerThanTheRun) {
  EXPECT_EQ(beta3_advice(AdEMAMix{.beta3 = 0.9999}, 10'000), "");
  EXPECT_NE(beta3_advice(AdEMAMix{.beta3 = 0.9999}, 9'999), "");
  EXPECT_EQ(beta3_advice(AdEMAMix{.beta3 = 0.9999}, 0), "");
  EXPECT_EQ(beta3_advice(AdamW{}, 10), "");
}

TEST(Beta3Advice, SaysWhatWasFoundAndWhatWouldSuit) {
  EXPECT_EQ(beta3_advice(AdEMAMix{.beta3 = 0.9999}, 2000),
            "beta3 = 0.9999 remembers 10000 steps, but the run has 2000: short runs with so long a "
            "memory often diverge. The automatic beta3 of a run of 2000 steps is 0.9975");
}

TEST(Beta3Advice, TheAutomaticBeta3IsFine) {
  for (const std::int64_t steps : {1, 4, 10, 100, 1000, 4500, 49'999, 256'000}) {
    for (const double beta1 : {0.0, 0.9, 0.99}) {
      const AdEMAMix rule{.beta1 = beta1, .beta3 = auto_beta3(steps, beta1)};
      EXPECT_EQ(beta3_advice(rule, steps), "") << steps << " " << beta1;
    }
  }
}

}  // namespace
}  // namespace shardmix
