#include "shardmix/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "shardmix/error.hpp"

namespace shardmix {
namespace {

using Shape = Schedule::Shape;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t longest = std::numeric_limits<std::int64_t>::max();

TEST(Schedule, ANumberIsConstant) {
  const Schedule lr = 0.25;
  for (const std::int64_t step : {1, 2, 1'000'000}) EXPECT_EQ(lr.at(step), 0.25);
}

TEST(Schedule, WarmUpIsLinearAndReachesThePeak) {
  for (const Schedule& lr :
       {constant(2.0, {.warmup = 10}), linear(2.0, {.warmup = 10, .steps = 100}),
        cosine(2.0, {.warmup = 10, .steps = 100}),
        wsd(2.0, {.warmup = 10, .steps = 100, .decay = 20}),
        wsd_sqrt(2.0, {.warmup = 10, .steps = 100, .decay = 20}),
        inverse_sqrt(2.0, {.warmup = 10})}) {
    for (std::int64_t step = 1; step < 10; ++step) {
      EXPECT_DOUBLE_EQ(lr.at(step), 0.2 * static_cast<double>(step)) << name_of(lr.shape);
    }
    EXPECT_EQ(lr.at(10), 2.0) << name_of(lr.shape);
    EXPECT_LE(lr.at(11), 2.0) << name_of(lr.shape);
  }
}

TEST(Schedule, AWarmUpOfTheWholeRunReachesThePeak) {
  for (const Schedule& lr :
       {linear(2.0, {.warmup = 10, .steps = 10}), cosine(2.0, {.warmup = 10, .steps = 10})}) {
    EXPECT_NO_THROW(lr.validate("lr"));
    EXPECT_EQ(lr.at(10), 2.0);
    EXPECT_EQ(lr.at(11), 0.0);
  }
}

TEST(Schedule, WithoutWarmUpTheFirstStep) {
  EXPECT_EQ(constant(1.0).at(1), 1.0);
  EXPECT_DOUBLE_EQ(linear(1.0, {.steps = 4}).at(1), 0.75);
  EXPECT_DOUBLE_EQ(cosine(1.0, {.steps = 4}).at(1), 0.5 * (1 + std::sqrt(0.5)));
  EXPECT_EQ(wsd(1.0, {.steps = 4, .decay = 2}).at(1), 1.0);
  EXPECT_DOUBLE_EQ(wsd_sqrt(1.0, {.steps = 4, .decay = 4}).at(1), 0.5);
  EXPECT_EQ(inverse_sqrt(1.0).at(1), 1.0);
}

TEST(Schedule, ConstantDoesNotDependOnTheSteps) {
  const Schedule lr = constant(1.0, {.warmup = 2, .steps = 10});
  for (const std::int64_t step : {2, 3, 10, 11, 1'000'000}) EXPECT_EQ(lr.at(step), 1.0);
}

TEST(Schedule, LinearFallsToItsFinalValue) {
  const Schedule lr = linear(1.0, {.warmup = 20, .steps = 100, .final = 0.2});
  EXPECT_DOUBLE_EQ(lr.at(21), 0.99);
  EXPECT_DOUBLE_EQ(lr.at(60), 0.6);
  EXPECT_DOUBLE_EQ(lr.at(99), 0.21);
  EXPECT_EQ(lr.at(100), 0.2);
  EXPECT_EQ(lr.at(101), 0.2);
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
  EXPECT_DOUBLE_EQ(lr.at(61), 0.98);
  EXPECT_DOUBLE_EQ(lr.at(80), 0.6);
  EXPECT_DOUBLE_EQ(lr.at(99), 0.22);
  EXPECT_EQ(lr.at(100), 0.2);
  EXPECT_EQ(lr.at(101), 0.2);
}

TEST(Schedule, WsdSqrtIsStableAndThenFallsFastAtFirst) {
  const Schedule lr = wsd_sqrt(1.0, {.warmup = 10, .steps = 200, .decay = 100, .final = 0.2});
  EXPECT_EQ(lr.at(11), 1.0);
  EXPECT_EQ(lr.at(100), 1.0);
  EXPECT_DOUBLE_EQ(lr.at(101), 0.92);  // 0.2 + 0.8 (1 - 0.1)
  EXPECT_DOUBLE_EQ(lr.at(125), 0.6);   // 0.2 + 0.8 (1 - 0.5)
  EXPECT_DOUBLE_EQ(lr.at(164), 0.36);  // 0.2 + 0.8 (1 - 0.8)
  EXPECT_NEAR(lr.at(199), 0.2 + 0.8 * 0.005012562893380, 1e-14);
  EXPECT_EQ(lr.at(200), 0.2);
  EXPECT_EQ(lr.at(201), 0.2);
}

TEST(Schedule, ADecayOfOneStepFallsAtTheEnd) {
  for (const Schedule& lr :
       {wsd(1.0, {.steps = 10, .decay = 1}), wsd_sqrt(1.0, {.steps = 10, .decay = 1})}) {
    EXPECT_EQ(lr.at(9), 1.0);
    EXPECT_EQ(lr.at(10), 0.0);
  }
}

TEST(Schedule, InverseSqrtFallsForEver) {
  const Schedule lr = inverse_sqrt(2.0, {.warmup = 100, .steps = 300});
  EXPECT_DOUBLE_EQ(lr.at(400), 1.0);
  EXPECT_DOUBLE_EQ(lr.at(10'000), 0.2);
  EXPECT_DOUBLE_EQ(inverse_sqrt(2.0).at(4), 1.0);
  EXPECT_DOUBLE_EQ(inverse_sqrt(2.0, {.warmup = 1}).at(4), 1.0);
}

TEST(ScheduleShape, NamesAndShapesAreEachOthersInverse) {
  for (const ShapeInfo& info : schedule_shapes) {
    EXPECT_EQ(&info_of(info.shape), &info) << info.name;
    EXPECT_EQ(schedule_shape_named(info.name), info.shape) << info.name;
  }
  EXPECT_EQ(name_of(Shape::wsd_sqrt), "wsd-sqrt");
  EXPECT_EQ(name_of(inverse_sqrt(1.0).shape), "inverse-sqrt");
}

TEST(ScheduleShape, AnotherNameIsRefusedWithThoseThereAre) {
  try {
    (void)schedule_shape_named("step");
    ADD_FAILURE() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "there is no schedule shape 'step'; expected one of constant, linear, cosine, "
                 "wsd, wsd-sqrt, inverse-sqrt");
  }
}

struct Bad {
  Schedule schedule;
  const char* message;
};

TEST(Schedule, RefusesWhatCannotBe) {
  const Bad all[] = {
      {-1.0, "lr: the peak value must be at least 0 and finite, but is -1"},
      {std::nan(""), "lr: the peak value must be at least 0 and finite, but is nan"},
      {infinity, "lr: the peak value must be at least 0 and finite, but is inf"},
      {linear(1.0, {.steps = 10, .final = -0.5}),
       "lr: the final value must be at least 0 and finite, but is -0.5"},
      {cosine(1.0, {.steps = 10, .final = infinity}),
       "lr: the final value must be at least 0 and finite, but is inf"},
      {constant(1.0, {.warmup = -1}),
       "lr: the warm-up of the shape 'constant' must be at least 0, but is -1"},
      {wsd(1.0, {.warmup = -1, .steps = 10, .decay = 5}),
       "lr: the warm-up of the shape 'wsd' must be at least 0, but is -1"},
      {constant(1.0, {.steps = -1}),
       "lr: the number of steps of the shape 'constant' must be at least 0, but is -1"},
      {inverse_sqrt(1.0, {.steps = -7}),
       "lr: the number of steps of the shape 'inverse-sqrt' must be at least 0, but is -7"},
      {linear(1.0, {}),
       "lr: the number of steps of the shape 'linear' must be at least 1, but is 0"},
      {cosine(1.0, {}),
       "lr: the number of steps of the shape 'cosine' must be at least 1, but is 0"},
      {wsd(1.0, {.decay = 1}),
       "lr: the number of steps of the shape 'wsd' must be at least 1, but is 0"},
      {wsd(1.0, {.steps = 10}), "lr: the decay of the shape 'wsd' must be at least 1, but is 0"},
      {wsd_sqrt(1.0, {.steps = 10, .decay = -2}),
       "lr: the decay of the shape 'wsd-sqrt' must be at least 1, but is -2"},
      {linear(1.0, {.warmup = 11, .steps = 10}),
       "lr: a warm-up of 11 and a decay of 0 steps don't fit into 10 steps"},
      {cosine(1.0, {.warmup = 11, .steps = 10}),
       "lr: a warm-up of 11 and a decay of 0 steps don't fit into 10 steps"},
      {wsd(1.0, {.warmup = 6, .steps = 10, .decay = 5}),
       "lr: a warm-up of 6 and a decay of 5 steps don't fit into 10 steps"},
      {wsd_sqrt(1.0, {.warmup = longest, .steps = 10, .decay = longest}),
       "lr: a warm-up of 9223372036854775807 and a decay of 9223372036854775807 steps don't fit "
       "into 10 steps"},
  };
  for (const Bad& bad : all) {
    try {
      bad.schedule.validate("lr");
      ADD_FAILURE() << "no error: " << bad.message;
    } catch (const ConfigError& error) {
      EXPECT_STREQ(error.what(), bad.message);
    }
  }
}

TEST(Schedule, AcceptsTheExtremes) {
  for (const Schedule& lr :
       {Schedule(0.0), constant(1.0, {.warmup = longest}), inverse_sqrt(1.0, {.warmup = 20}),
        constant(1.0, {.warmup = 20, .steps = 10}), linear(1.0, {.steps = 1}),
        wsd(1.0, {.warmup = 5, .steps = 10, .decay = 5}),
        wsd_sqrt(1.0, {.steps = 1, .decay = 1})}) {
    EXPECT_NO_THROW(lr.validate("lr")) << name_of(lr.shape);
  }
}

}  // namespace
}  // namespace shardmix
