#include "train/options.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "math/update_rules.hpp"
#include "shardmix/error.hpp"
#include "shardmix/presets.hpp"

namespace shardmix::train {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

TrainOptions good_options() {
  TrainOptions options;
  options.text = "book.txt";
  return options;
}

TEST(TrainOptions, DefaultsAreValid) {
  EXPECT_NO_THROW(validate(good_options()));
}

TEST(TrainOptions, EveryModelIsValid) {
  for (const NamedModel& model : named_models()) {
    TrainOptions options = good_options();
    options.model = model.name;
    EXPECT_NO_THROW(validate(options)) << model.name;
  }
}

struct BadOption {
  const char* named;  ///< what the message must contain
  std::function<void(TrainOptions&)> spoil;
};

TEST(TrainOptions, ImpossibleValuesAreNamed) {
  const BadOption bad[] = {
      {"--text", [](TrainOptions& o) { o.text.clear(); }},
      {"--out", [](TrainOptions& o) { o.out.clear(); }},
      {"--resume", [](TrainOptions& o) { o.resume.clear(); }},
      {"--model", [](TrainOptions& o) { o.model = "7b"; }},
      {"--steps", [](TrainOptions& o) { o.steps = 0; }},
      {"--batch", [](TrainOptions& o) { o.batch = 0; }},
      {"--batch", [](TrainOptions& o) { o.batch = std::int64_t{1} << 32; }},
      {"--micro-batch", [](TrainOptions& o) { o.micro_batch = -1; }},
      {"--threads", [](TrainOptions& o) { o.threads = -2; }},
      {"--heads", [](TrainOptions& o) { o.heads = 3; }},
      {"--width", [](TrainOptions& o) { o.width = 0; }},
      {"--layers", [](TrainOptions& o) { o.layers = -1; }},
      {"--context", [](TrainOptions& o) { o.context = 0; }},
      {"--eval-every", [](TrainOptions& o) { o.eval_every = -1; }},
      {"--eval-sequences", [](TrainOptions& o) { o.eval_sequences = -1; }},
      {"--checkpoint-every", [](TrainOptions& o) { o.checkpoint_every = -1; }},
      {"--keep-last", [](TrainOptions& o) { o.keep_last = -1; }},
      {"--keep-every", [](TrainOptions& o) { o.keep_every = -1; }},
      {"--ranks-per-file", [](TrainOptions& o) { o.ranks_per_file = 0; }},
      {"--log-every", [](TrainOptions& o) { o.log_every = 0; }},
      {"--lr", [](TrainOptions& o) { o.rule.lr = 0.0; }},
      {"lr", [](TrainOptions& o) { o.rule.lr = -1e-3; }},
      {"lr", [](TrainOptions& o) { o.rule.final_lr = std::nan(""); }},
      {"warm-up", [](TrainOptions& o) { o.rule.warmup = 2000; }},
      {"--warmup", [](TrainOptions& o) { o.rule.warmup = -1; }},
      {"--decay", [](TrainOptions& o) { o.rule.decay = 0; }},
      {"decay of 1000",
       [](TrainOptions& o) {
         o.rule.lr_shape = Schedule::Shape::wsd_sqrt;
         o.rule.decay = 1000;
       }},
      {"beta1", [](TrainOptions& o) { o.rule.beta1 = 1.0; }},
      {"beta2", [](TrainOptions& o) { o.rule.beta2 = -0.1; }},
      {"beta3", [](TrainOptions& o) { o.rule.beta3 = 1.0; }},
      {"alpha", [](TrainOptions& o) { o.rule.alpha = infinity; }},
      {"alpha_steps", [](TrainOptions& o) { o.rule.alpha_steps = -1; }},
      {"eps", [](TrainOptions& o) { o.rule.eps = 0.0; }},
      {"weight_decay", [](TrainOptions& o) { o.rule.weight_decay = -1.0; }},
      {"--clip", [](TrainOptions& o) { o.rule.clip = infinity; }},
      {"adamw", [](TrainOptions& o) { o.rule.name = "adam"; }},
      {"--device cuda", [](TrainOptions& o) { o.dtype = fp16; }},
  };
  for (const BadOption& option : bad) {
    TrainOptions options = good_options();
    option.spoil(options);
    try {
      validate(options);
      ADD_FAILURE() << "no error that names " << option.named;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(option.named), std::string::npos) << error.what();
    }
  }
}

TEST(RuleOf, FillsInWhatFollowsFromModelAndSteps) {
  TrainOptions options = good_options();
  options.model = "1.3b";
  options.steps = 20'000;
  const auto rule = std::get<AdEMAMix>(rule_of(options));
  EXPECT_EQ(rule.lr, cosine(3e-4, {.warmup = 2000, .steps = 20'000, .final = 3e-4 / 100.0}));
  EXPECT_EQ(rule.alpha, 5.0);
  EXPECT_EQ(rule.alpha_steps, 20'000);
  EXPECT_EQ(rule.beta3_steps, 20'000);
  EXPECT_EQ(clip_of(options), 0.1);
}

TEST(RuleOf, UnsetNumbersAreTheRulesOwn) {
  for (const Rule& own : all_rules()) {
    TrainOptions options = good_options();
    options.rule.name = name_of(own);
    EXPECT_NO_THROW(validate(options)) << name_of(own);
    Rule expected = own;
    std::visit([&](auto& r) { r.lr = lr_of(rule_of(options)); }, expected);
    if (auto* r = std::get_if<AdEMAMix>(&expected)) {
      r->beta3 = auto_beta3(1000);
      r->alpha_steps = r->beta3_steps = 1000;
    }
    if (auto* r = std::get_if<SimplifiedAdEMAMix>(&expected)) r->beta1_steps = 1000;
    EXPECT_EQ(rule_of(options), expected) << name_of(own);
  }
}

TEST(RuleOf, TheModelsLrIsScaledForTheRule) {
  TrainOptions options = good_options();
  const auto peak = [&](const std::string& name) {
    options.rule.name = name;
    return lr_of(rule_of(options)).peak;
  };
  EXPECT_EQ(peak("ademamix"), 3e-3);
  EXPECT_EQ(peak("adamw"), 3e-3);
  EXPECT_DOUBLE_EQ(peak("lion"), 3e-4);
  EXPECT_NEAR(peak("simplified-ademamix"), 3e-5, 1e-18);
  options.rule.beta1 = 0.75;
  EXPECT_DOUBLE_EQ(peak("simplified-ademamix"), 3e-3 / 4.0);
  options.rule.lr = 0.5;
  EXPECT_EQ(peak("simplified-ademamix"), 0.5);
  EXPECT_EQ(peak("lion"), 0.5);
}

TEST(RuleOf, EveryHyperParameterCanBeGiven) {
  TrainOptions options = good_options();
  options.rule = {.lr = 0.5,
                  .beta1 = 0.31,
                  .min_beta1 = 0.25,
                  .beta2 = 0.32,
                  .beta3 = 0.33,
                  .alpha = 0.34,
                  .eps = 0.35,
                  .weight_decay = 0.36,
                  .alpha_steps = 11,
                  .beta1_steps = 12,
                  .beta3_steps = 13};
  for (const Rule& own : all_rules()) {
    options.rule.name = name_of(own);
    math::for_each_hyper_parameter(own, [&](std::string_view name, auto default_value) {
      math::for_each_hyper_parameter(rule_of(options), [&](std::string_view other, auto value) {
        if (name == other) {
          EXPECT_NE(static_cast<double>(value), static_cast<double>(default_value)) << name;
        }
      });
    });
  }
  EXPECT_EQ(describe(rule_of(options)),
            "lion, lr 0.5 to 0.005 (cosine) after 100 steps of warm-up, beta1 0.31, beta2 0.32, "
            "weight decay 0.36");
  options.rule.name = "simplified-ademamix";
  EXPECT_EQ(describe(rule_of(options)),
            "simplified-ademamix, lr 0.5 to 0.005 (cosine) after 100 steps of warm-up, beta1 0.31, "
            "min beta1 0.25, beta2 0.32, alpha 0.34, eps 0.35, weight decay 0.36, beta1 steps 12");
}

TEST(RuleOf, TakesWhatIsGiven) {
  TrainOptions options = good_options();
  options.rule = {.name = "adamw",
                  .lr = 0.5,
                  .lr_shape = Schedule::Shape::wsd,
                  .final_lr = 0.25,
                  .warmup = 10,
                  .decay = 100,
                  .beta1 = 0.8,
                  .beta2 = 0.95,
                  .eps = 1e-6,
                  .weight_decay = 0.0,
                  .clip = 0.0};
  const auto rule = std::get<AdamW>(rule_of(options));
  EXPECT_EQ(rule.lr, wsd(0.5, {.warmup = 10, .steps = 1000, .decay = 100, .final = 0.25}));
  EXPECT_EQ(rule.beta1, 0.8);
  EXPECT_EQ(rule.beta2, 0.95);
  EXPECT_EQ(rule.eps, 1e-6);
  EXPECT_EQ(rule.weight_decay, 0.0);
  EXPECT_EQ(clip_of(options), 0.0);
}

TEST(Preset, FillsInWhatWasNotGiven) {
  TrainOptions options = good_options();
  options.steps = 100'000;
  for (const Preset& preset : presets()) {
    options.rule = {.preset = std::string(preset.name), .lr = 0.25};
    EXPECT_NO_THROW(validate(options)) << preset.name;
    AdEMAMix expected = preset.rule;
    expected.lr = lr_of(rule_of(options));
    expected.alpha_steps = expected.alpha_steps.value_or(100'000);
    expected.beta3_steps = expected.beta3_steps.value_or(100'000);
    EXPECT_EQ(rule_of(options), Rule(expected)) << preset.name;
    EXPECT_EQ(expected.lr.peak, 0.25);
    EXPECT_EQ(expected.lr.shape, preset.rule.lr.shape);
    EXPECT_EQ(clip_of(options), preset.clip_norm);
  }
  options.rule = {.preset = "paper-1.3b",
                  .lr_shape = Schedule::Shape::linear,
                  .final_lr = 0.0,
                  .beta3 = 0.99,
                  .alpha = 3.0,
                  .weight_decay = 0.0,
                  .alpha_steps = 7,
                  .clip = 0.0};
  EXPECT_EQ(rule_of(options), Rule(AdEMAMix{.lr = linear(3e-4, {.warmup = 3000, .steps = 100'000}),
                                            .beta3 = 0.99,
                                            .alpha = 3.0,
                                            .weight_decay = 0.0,
                                            .alpha_steps = 7,
                                            .beta3_steps = 100'000}));
  EXPECT_EQ(clip_of(options), 0.0);
}

TEST(Preset, OfALongRunIsThePapersRun) {
  TrainOptions options = good_options();
  options.steps = 256'000;
  for (const char* name : {"paper-110m", "paper-330m", "paper-1.3b"}) {
    options.rule = {.preset = name};
    const Preset& preset = preset_named(name);
    EXPECT_EQ(lr_of(rule_of(options)), preset.rule.lr);
    options.rule.name = "adamw";
    AdamW adamw{.lr = preset.rule.lr};
    adamw.lr.peak = preset.adamw_lr;
    EXPECT_EQ(rule_of(options), Rule(adamw));
  }
}

TEST(Preset, OfTheNamedModelsHaveTheirNumbers) {
  for (const NamedModel& model : named_models()) {
    if (model.name == "nano") continue;
    const Preset& preset = preset_named("paper-" + std::string(model.name));
    EXPECT_EQ(model.lr, preset.rule.lr.peak);
    EXPECT_EQ(model.alpha, preset.rule.alpha);
    EXPECT_EQ(model.clip, preset.clip_norm);
  }
}

TEST(Preset, OfASwitchHoldsOnBothSides) {
  TrainOptions options = good_options();
  options.steps = 100'000;
  options.rule = {.preset = "switch-1.3b", .switch_at = 40'000};
  EXPECT_NO_THROW(validate(options));
  EXPECT_EQ(lr_of(rule_before_switch(options)), lr_of(rule_of(options)));
  const auto rule = std::get<AdEMAMix>(rule_of(options));
  EXPECT_EQ(rule.alpha_at(1), 1.0);
  EXPECT_EQ(rule.beta3_at(1), 0.9999);
  options.rule.preset = "paper-110m";  // its schedules are as long as what is left
  EXPECT_EQ(std::get<AdEMAMix>(rule_of(options)).alpha_steps, 60'000);
}

TEST(Preset, OfAnotherRuleIsRefused) {
  TrainOptions options = good_options();
  for (const char* name : {"lion", "simplified-ademamix"}) {
    options.rule = {.name = name, .preset = "paper-110m"};
    EXPECT_THROW(validate(options), ConfigError) << name;
  }
  options.rule = {.name = "lion", .preset = "paper-110m", .switch_at = 10};
  EXPECT_THROW(validate(options), ConfigError);
}

TEST(WidestRule, KeepsAllStatesOfTheOther) {
  TrainOptions options = good_options();
  options.rule.switch_at = 500;
  const auto widest = [&](const char* from, const char* to) {
    options.rule.switch_from = from;
    options.rule.name = to;
    EXPECT_NO_THROW(validate(options)) << from << " " << to;
    return name_of(widest_rule(options));
  };
  EXPECT_EQ(widest("adamw", "ademamix"), "ademamix");
  EXPECT_EQ(widest("ademamix", "adamw"), "ademamix");
  EXPECT_EQ(widest("adamw", "lion"), "adamw");
  options.rule.switch_at = 0;
  EXPECT_EQ(widest("ademamix", "adamw"), "adamw");
}

TEST(RuleOf, EveryShapeTakesTheNumbersThatItHas) {
  TrainOptions options = good_options();
  options.rule.lr = 0.5;
  options.rule.final_lr = 0.25;
  const auto lr = [&](Schedule::Shape shape) {
    options.rule.lr_shape = shape;
    validate(options);
    return lr_of(rule_of(options));
  };
  using Shape = Schedule::Shape;
  EXPECT_EQ(lr(Shape::constant), constant(0.5, {.warmup = 100, .steps = 1000}));
  EXPECT_EQ(lr(Shape::linear), linear(0.5, {.warmup = 100, .steps = 1000, .final = 0.25}));
  EXPECT_EQ(lr(Shape::cosine), cosine(0.5, {.warmup = 100, .steps = 1000, .final = 0.25}));
  EXPECT_EQ(lr(Shape::wsd), wsd(0.5, {.warmup = 100, .steps = 1000, .decay = 200, .final = 0.25}));
  EXPECT_EQ(lr(Shape::wsd_sqrt),
            wsd_sqrt(0.5, {.warmup = 100, .steps = 1000, .decay = 200, .final = 0.25}));
  EXPECT_EQ(lr(Shape::inverse_sqrt), inverse_sqrt(0.5, {.warmup = 100, .steps = 1000}));
}

TEST(RuleOf, TheShortestRunsAreValid) {
  for (const ShapeInfo& shape : schedule_shapes) {
    for (const std::int64_t steps : {1, 2, 4, 5, 9, 10}) {
      TrainOptions options = good_options();
      options.steps = steps;
      options.rule.lr_shape = shape.shape;
      EXPECT_NO_THROW(validate(options)) << shape.name << " " << steps;
    }
  }
}

TEST(RuleOf, AnUnsetBeta3SuitsTheRun) {
  for (const std::int64_t steps : {1, 10, 1000, 256'000}) {
    TrainOptions options = good_options();
    options.steps = steps;
    const Rule rule = rule_of(options);
    EXPECT_EQ(std::get<AdEMAMix>(rule).beta3, auto_beta3(steps, 0.9));
    EXPECT_EQ(beta3_advice(rule, steps), "") << steps;
  }
}

TEST(Describe, SaysTheScheduleWithItsNumbers) {
  const auto said = [](const Schedule& lr) {
    const std::string text = describe(AdamW{.lr = lr});
    return text.substr(0, text.find(", beta1"));
  };
  EXPECT_EQ(said(0.5), "adamw, lr 0.5 (constant)");
  EXPECT_EQ(said(cosine(0.5, {.warmup = 3, .steps = 10, .final = 0.25})),
            "adamw, lr 0.5 to 0.25 (cosine) after 3 steps of warm-up");
  EXPECT_EQ(said(wsd_sqrt(0.5, {.steps = 10, .decay = 4})),
            "adamw, lr 0.5 to 0 (wsd-sqrt, over the last 4 steps)");
  EXPECT_EQ(said(inverse_sqrt(0.5, {.warmup = 3})),
            "adamw, lr 0.5 (inverse-sqrt) after 3 steps of warm-up");
}

TEST(Describe, SaysHowWeightsAndStateAreKept) {
  TrainOptions options = good_options();
  EXPECT_EQ(describe_precision(options), "fp32, state full");
  options.state = StateFormat::compact;
  options.dtype = bf16;
  EXPECT_EQ(describe_precision(options), "bf16, master remainder, state compact");
  options.dtype = fp16;  // has no remainder
  EXPECT_EQ(describe_precision(options), "fp16, master full, state compact");
  options.master = Master::none;
  EXPECT_EQ(describe_precision(options), "fp16, master none, state compact");
  options.device = DeviceKind::cuda;
  EXPECT_NO_THROW(validate(options));
}

}  // namespace
}  // namespace shardmix::train
