#include <fmt/format.h>

#include <algorithm>

#include "train/options.hpp"

namespace shardmix::train {
namespace {

Schedule lr_schedule(const RuleOptions& rule, double peak, std::int64_t steps) {
  const ShapeInfo& shape = info_of(rule.lr_shape);
  Schedule lr = peak;
  lr.shape = rule.lr_shape;
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

std::string slow_schedule(const std::optional<std::int64_t>& steps) {
  return steps.value_or(0) > 0 ? fmt::format(" over {} steps", *steps) : std::string();
}

}  // namespace

Rule rule_of(const TrainOptions& options) {
  const RuleOptions& chosen = options.rule;
  const NamedModel& model = model_named(options.model);
  const Schedule lr = lr_schedule(chosen, chosen.lr.value_or(model.lr), options.steps);
  if (chosen.kind == RuleKind::adamw) {
    return AdamW{.lr = lr,
                 .beta1 = chosen.beta1,
                 .beta2 = chosen.beta2,
                 .eps = chosen.eps,
                 .weight_decay = chosen.weight_decay};
  }
  return AdEMAMix{.lr = lr,
                  .beta1 = chosen.beta1,
                  .beta2 = chosen.beta2,
                  .beta3 = chosen.beta3.value_or(auto_beta3(options.steps, chosen.beta1)),
                  .alpha = chosen.alpha.value_or(model.alpha),
                  .eps = chosen.eps,
                  .weight_decay = chosen.weight_decay,
                  .alpha_steps = chosen.alpha_steps.value_or(options.steps),
                  .beta3_steps = chosen.beta3_steps.value_or(options.steps)};
}

std::string describe(const Rule& rule) {
  if (const auto* adamw = std::get_if<AdamW>(&rule)) {
    return fmt::format("AdamW, {}, beta1 {:g}, beta2 {:g}, eps {:g}, weight decay {:g}",
                       describe(adamw->lr), adamw->beta1, adamw->beta2, adamw->eps,
                       adamw->weight_decay);
  }
  const auto& r = std::get<AdEMAMix>(rule);
  return fmt::format(
      "AdEMAMix, {}, beta1 {:g}, beta2 {:g}, beta3 {:.8g}{}, alpha {:g}{}, eps {:g}, weight "
      "decay {:g}",
      describe(r.lr), r.beta1, r.beta2, r.beta3, slow_schedule(r.beta3_steps), r.alpha,
      slow_schedule(r.alpha_steps), r.eps, r.weight_decay);
}

}  // namespace shardmix::train
