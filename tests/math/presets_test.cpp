#include "shardmix/presets.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "shardmix/error.hpp"

namespace shardmix {
namespace {

TEST(Presets, HoldThePublishedNumbers) {
  struct Published {
    const char* name;
    double lr;
    double adamw_lr;
    double alpha;
    double clip_norm;
    std::optional<std::int64_t> schedule_steps;
  };
  for (const Published& p : {Published{"paper-110m", 1e-3, 1e-3, 8.0, 0.5, {}},
                             Published{"paper-330m", 5e-4, 5e-4, 8.0, 0.1, {}},
                             Published{"paper-1.3b", 3e-4, 5e-4, 5.0, 0.1, {}},
                             Published{"switch-110m", 1e-3, 1e-3, 2.0, 0.5, 0},
                             Published{"switch-1.3b", 5e-4, 5e-4, 1.0, 0.1, 0}}) {
    const Preset& preset = preset_named(p.name);
    EXPECT_EQ(preset.rule,
              (AdEMAMix{.lr = cosine(p.lr, {.warmup = 3000, .steps = 256'000, .final = 1e-5}),
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .beta3 = 0.9999,
                        .alpha = p.alpha,
                        .weight_decay = 0.1,
                        .alpha_steps = p.schedule_steps,
                        .beta3_steps = p.schedule_steps}))
        << p.name;
    EXPECT_EQ(preset.adamw_lr, p.adamw_lr) << p.name;
    EXPECT_EQ(preset.clip_norm, p.clip_norm) << p.name;
    EXPECT_NO_THROW(validate(preset.rule)) << p.name;
  }
}

TEST(Presets, WhatWasNotPublishedMustBeGiven) {
  const Preset& apertus = preset_named("apertus");
  EXPECT_THROW(validate(apertus.rule), ConfigError);
  AdEMAMix rule = apertus.rule;
  rule.lr = wsd_sqrt(1e-4, {.warmup = 10, .steps = 1000, .decay = 100});
  EXPECT_NO_THROW(validate(rule));
  EXPECT_EQ(rule.alpha_at(50'000), 4.0);
  EXPECT_EQ(rule.beta3_at(100'000), 0.9999);
  EXPECT_EQ(apertus.clip_norm, 0.1);
}

TEST(Presets, TheLengthOfARunIsThatOfItsSchedules) {
  AdEMAMix rule = preset_named("paper-1.3b").rule;
  rule.lr.steps = 10'000;
  EXPECT_EQ(rule.alpha_at(5'000), 2.5);
  EXPECT_LT(rule.beta3_at(9'999), 0.9999);
  EXPECT_EQ(rule.beta3_at(10'000), 0.9999);
  EXPECT_EQ(preset_named("switch-1.3b").rule.alpha_at(1), 1.0);
}

TEST(Presets, AnUnknownNameListsThem) {
  try {
    (void)preset_named("paper");
    FAIL();
  } catch (const ConfigError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("'paper'"), std::string::npos);
    for (const Preset& preset : presets())
      EXPECT_NE(text.find(preset.name), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace shardmix
