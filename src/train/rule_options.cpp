#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "math/update_rules.hpp"
#include "shardmix/error.hpp"
#include "shardmix/presets.hpp"
#include "train/options.hpp"

namespace shardmix::train {
namespace {

/// Where a hyper-parameter of some rules is among the options.
template <class Value>
struct Given {
  std::string_view name;
  std::optional<Value> RuleOptions::*value;
};

constexpr std::array numbers{
    Given<double>{"beta1", &RuleOptions::beta1},
    Given<double>{"min_beta1", &RuleOptions::min_beta1},
    Given<double>{"beta2", &RuleOptions::beta2},
    Given<double>{"beta3", &RuleOptions::beta3},
    Given<double>{"alpha", &RuleOptions::alpha},
    Given<double>{"eps", &RuleOptions::eps},
    Given<double>{"weight_decay", &RuleOptions::weight_decay},
};

constexpr std::array lengths{
    Given<std::int64_t>{"alpha_steps", &RuleOptions::alpha_steps},
    Given<std::int64_t>{"beta1_steps", &RuleOptions::beta1_steps},
    Given<std::int64_t>{"beta3_steps", &RuleOptions::beta3_steps},
};

/// Every rule's hyper-parameters have a place.
template <class Value, std::size_t Count>
std::optional<Value> RuleOptions::*place_of(const std::array<Given<Value>, Count>& table,
                                            std::string_view name) {
  return std::ranges::find(table, name, &Given<Value>::name)->value;
}

template <class Value>
void set_if_unset(std::optional<Value>& option, const std::optional<Value>& value) {
  if (!option) option = value;
}

/// What the preset says where nothing was given. The warm-up stays that of the run's length: for a
/// long run it is the preset's.
RuleOptions with_preset(RuleOptions options) {
  if (options.preset.empty()) return options;
  const Preset& preset = preset_named(options.preset);
  const bool is_adamw = options.name == math::Spec<AdamW>::name;
  if (!is_adamw && options.name != math::Spec<AdEMAMix>::name) {
    throw ConfigError(fmt::format(
        "--preset {} is for ademamix and adamw, but the rule is {}: leave one of them out",
        options.preset, options.name));
  }
  const Schedule& lr = preset.rule.lr;
  set_if_unset(options.lr_shape, {lr.shape});
  if (std::isfinite(lr.peak)) {
    set_if_unset(options.lr, {is_adamw ? preset.adamw_lr : lr.peak});
    set_if_unset(options.final_lr, {lr.final});
  }
  for (const auto& number : math::Spec<AdEMAMix>::numbers)
    set_if_unset(options.*place_of(numbers, number.name), {preset.rule.*number.value});
  for (const auto& length : math::Spec<AdEMAMix>::lengths)
    set_if_unset(options.*place_of(lengths, length.name), preset.rule.*length.steps);
  set_if_unset(options.clip, {preset.clip_norm});
  return options;
}

/// Steps of the rule after the switch, if there is one.
std::int64_t own_steps(const TrainOptions& options) {
  return options.steps - options.rule.switch_at;
}

/// Sets what was given, and the lengths of schedules.
template <class R>
void take(R& rule, const RuleOptions& chosen, std::int64_t steps) {
  for (const auto& number : math::Spec<R>::numbers) {
    double& value = rule.*number.value;
    value = (chosen.*place_of(numbers, number.name)).value_or(value);
  }
  for (const auto& length : math::Spec<R>::lengths)
    rule.*length.steps = (chosen.*place_of(lengths, length.name)).value_or(steps);
}

/// The model's lr is that of AdamW and AdEMAMix. Lion's step is larger, the sign in place of a
/// quotient that is mostly below 1 (its paper: three to ten times smaller an lr); the momentum of
/// Simplified-AdEMAMix is a sum.
double lr_factor(const Rule& rule) {
  if (std::holds_alternative<Lion>(rule)) return 0.1;
  if (const auto* r = std::get_if<SimplifiedAdEMAMix>(&rule)) return 1.0 - r->beta1;
  return 1.0;
}

Schedule lr_schedule(const RuleOptions& rule, double peak, std::int64_t steps) {
  Schedule lr = peak;
  lr.shape = rule.lr_shape.value_or(Schedule::Shape::cosine);
  const ShapeInfo& shape = info_of(lr.shape);
  lr.warmup = rule.warmup.value_or(std::min<std::int64_t>(3000, steps / 10));
  lr.steps = steps;
  if (shape.has_end) lr.final = rule.final_lr.value_or(peak / 100.0);
  if (shape.has_decay) lr.decay = rule.decay.value_or(std::max<std::int64_t>(1, steps / 5));
  return lr;
}

std::string describe(const Schedule& lr) {
  const ShapeInfo& shape = info_of(lr.shape);
  const std::string end = shape.has_end ? fmt::format(" to {:g}", lr.final) : std::string();
  const std::string decay =
      shape.has_decay ? fmt::format(", over the last {} steps", lr.decay) : std::string();
  const std::string warmup =
      lr.warmup > 0 ? fmt::format(" after {} steps of warm-up", lr.warmup) : std::string();
  return fmt::format("lr {:g}{} ({}{}){}", lr.peak, end, shape.name, decay, warmup);
}

std::string describe(double number) {
  return fmt::format("{:.8g}", number);
}
std::string describe(std::int64_t length) {
  return fmt::format("{}", length);
}

}  // namespace

Rule rule_of(const TrainOptions& options) {
  const RuleOptions chosen = with_preset(options.rule);
  const NamedModel& model = model_named(options.model);
  Rule rule = rule_named(chosen.name);
  std::visit([&](auto& r) { take(r, chosen, own_steps(options)); }, rule);
  if (auto* r = std::get_if<AdEMAMix>(&rule)) {
    r->alpha = chosen.alpha.value_or(model.alpha);
    r->beta3 = chosen.beta3.value_or(auto_beta3(own_steps(options), r->beta1));
  }
  const double peak = chosen.lr.value_or(model.lr * lr_factor(rule));
  std::visit([&](auto& r) { r.lr = lr_schedule(chosen, peak, options.steps); }, rule);
  return rule;
}

Rule rule_before_switch(const TrainOptions& options) {
  TrainOptions before = options;
  before.rule.name = options.rule.switch_from;
  before.rule.switch_at = 0;
  return rule_of(before);
}

bool covers(const RuleStates& many, const RuleStates& few) noexcept {
  const bool has_m2 = many.m2 && many.m2_is_sum == few.m2_is_sum;
  return (many.m1 || !few.m1) && (has_m2 || !few.m2) && (many.v || !few.v);
}

Rule widest_rule(const TrainOptions& options) {
  Rule rule = rule_of(options);
  if (options.rule.switch_at == 0) return rule;
  Rule before = rule_before_switch(options);
  return covers(states_of(rule), states_of(before)) ? rule : before;
}

double clip_of(const TrainOptions& options) {
  return with_preset(options.rule).clip.value_or(model_named(options.model).clip);
}

std::string describe(const Rule& rule) {
  std::string text = fmt::format("{}, {}", name_of(rule), describe(lr_of(rule)));
  math::for_each_hyper_parameter(rule, [&](std::string_view name, auto value) {
    std::string words(name);
    std::ranges::replace(words, '_', ' ');
    text += fmt::format(", {} {}", words, describe(value));
  });
  return text;
}

std::string describe_rules(const TrainOptions& options) {
  const std::string rule = describe(rule_of(options));
  if (options.rule.switch_at == 0) return rule;
  const bool from_m1 = options.rule.switch_m2 == M2Start::from_m1;
  return fmt::format("{}; after step {}{} {}", describe(rule_before_switch(options)),
                     options.rule.switch_at, from_m1 ? ", with m2 from m1," : "", rule);
}

}  // namespace shardmix::train
