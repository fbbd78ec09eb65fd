#include "shardmix/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "shardmix/error.hpp"

namespace shardmix {
namespace {

TEST(Schedule, ANumberIsConstant) {
  const Schedule lr = 0.25;
  for (const std::int64_t step : {1, 2, 1'000'000}) EXPECT_EQ(lr.at(step), 0.25);
}

TEST(Schedule, WarmUpIsLinearAndReachesThePeak) {
  for (const Schedule& lr :
       {constant(2.0, {.warmup = 10}), cosine(2.0, {.warmup = 10, .steps = 100}),
        wsd(2.0, {.warmup = 10, .steps = 100, .decay = 20})}) {
    for (std::int64_t step = 1; step <= 10; ++step)
      EXPECT_DOUBLE_EQ(lr.at(step), 0.2 * static_cast<double>(step));
  }
}

TEST(Schedule, CosineFallsToItsFinalValue) {
  const Schedule lr = cosine(1.0, {.warmup = 0, .steps = 100, .final = 0.1});
  EXPECT_DOUBLE_EQ(lr.at(50), 0.55);
  EXPECT_DOUBLE_EQ(lr.at(25), 0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5)));
  EXPECT_EQ(lr.at(100), 0.1);
  EXPECT_EQ(lr.at(1000), 0.1);
}

TEST(Schedule, WsdIsStableAndThenLinear) {
  const Schedule lr = wsd(1.0, {.warmup = 10, .steps = 100, .decay = 40, .final = 0.2});
  EXPECT_EQ(lr.at(11), 1.0);
  EXPECT_EQ(lr.at(60), 1.0);
  EXPECT_DOUBLE_EQ(lr.at(80), 0.6);
  EXPECT_EQ(lr.at(100), 0.2);
}

TEST(Schedule, RefusesWhatCannotBe) {
  EXPECT_THROW(Schedule(-1.0).validate("lr"), ConfigError);
  EXPECT_THROW(Schedule(std::nan("")).validate("lr"), ConfigError);
  EXPECT_THROW(Schedule(std::numeric_limits<double>::infinity()).validate("lr"), ConfigError);
  EXPECT_THROW(cosine(1.0, {.warmup = 11, .steps = 10}).validate("lr"), ConfigError);
  EXPECT_THROW(cosine(1.0, {}).validate("lr"), ConfigError);
  EXPECT_THROW(wsd(1.0, {.warmup = 6, .steps = 10, .decay = 5}).validate("lr"), ConfigError);
  EXPECT_THROW(wsd(1.0, {.warmup = -1, .steps = 10, .decay = 5}).validate("lr"), ConfigError);
  EXPECT_NO_THROW(wsd(1.0, {.warmup = 5, .steps = 10, .decay = 5}).validate("lr"));
}

}  // namespace
}  // namespace shardmix
