#include "train/options.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "shardmix/error.hpp"

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

TEST(RuleOf, TakesWhatIsGiven) {
  TrainOptions options = good_options();
  options.rule = {.kind = RuleKind::adamw,
                  .lr = 0.5,
                  .lr_shape = Schedule::Shape::wsd,
                  .final_lr = 0.25,
                  .warmup = 10,
                  .decay = 100,
                  .beta1 = 0.8,
                  .beta2 = 0.95,
                  .beta3 = {},
                  .alpha = {},
                  .eps = 1e-6,
                  .weight_decay = 0.0,
                  .alpha_steps = {},
                  .beta3_steps = {},
                  .clip = 0.0};
  const auto rule = std::get<AdamW>(rule_of(options));
  EXPECT_EQ(rule.lr, wsd(0.5, {.warmup = 10, .steps = 1000, .decay = 100, .final = 0.25}));
  EXPECT_EQ(rule.beta1, 0.8);
  EXPECT_EQ(rule.beta2, 0.95);
  EXPECT_EQ(rule.eps, 1e-6);
  EXPECT_EQ(rule.weight_decay, 0.0);
  EXPECT_EQ(clip_of(options), 0.0);
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
  EXPECT_EQ(said(0.5), "AdamW, lr 0.5 (constant)");
  EXPECT_EQ(said(cosine(0.5, {.warmup = 3, .steps = 10, .final = 0.25})),
            "AdamW, lr 0.5 to 0.25 (cosine) after 3 steps of warm-up");
  EXPECT_EQ(said(wsd_sqrt(0.5, {.steps = 10, .decay = 4})),
            "AdamW, lr 0.5 to 0 (wsd-sqrt, over the last 4 steps)");
  EXPECT_EQ(said(inverse_sqrt(0.5, {.warmup = 3})),
            "AdamW, lr 0.5 (inverse-sqrt) after 3 steps of warm-up");
}

}  // namespace
}  // namespace shardmix::train
