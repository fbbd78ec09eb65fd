#include "cli/preset_table.hpp"

#include <fmt/format.h>

#include <cmath>

#include "shardmix/presets.hpp"

namespace shardmix::cli {
namespace {

std::string lr_of(const Preset& preset) {
  const Schedule& lr = preset.rule.lr;
  const std::string_view shape = name_of(lr.shape);
  if (!std::isfinite(lr.peak)) return fmt::format("lr the model's ({})", shape);
  const std::string adamw =
      preset.adamw_lr == lr.peak ? std::string() : fmt::format(", adamw {:g}", preset.adamw_lr);
  return fmt::format("lr {:g} to {:g} ({}{})", lr.peak, lr.final, shape, adamw);
}

std::string steps_of(const AdEMAMix& rule) {
  if (!rule.alpha_steps) return "over the run";
  return *rule.alpha_steps == 0 ? "at once" : fmt::format("over {} steps", *rule.alpha_steps);
}

}  // namespace

std::string preset_table() {
  std::string text;
  for (const Preset& preset : presets()) {
    const AdEMAMix& rule = preset.rule;
    text += fmt::format("  {:<12} {}, alpha {:g}, beta3 {:g} {}, clip {:g}\n{:15}{}\n", preset.name,
                        lr_of(preset), rule.alpha, rule.beta3, steps_of(rule), preset.clip_norm, "",
                        preset.about);
  }
  return text;
}

}  // namespace shardmix::cli
