#include "shardmix/presets.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <limits>
#include <vector>

#include "shardmix/error.hpp"

namespace shardmix {
namespace {

constexpr double not_found = std::numeric_limits<double>::quiet_NaN();

/// The lr of all language models of the AdEMAMix paper (arXiv 2409.03137, appendix B).
Schedule paper_lr(double peak) {
  return cosine(peak, {.warmup = 3000, .steps = 256'000, .final = 1e-5});
}

/// Its models from the start: beta1 0.9, beta2 0.999, weight decay 0.1, schedules over the whole
/// run.
AdEMAMix paper_rule(double lr, double alpha) {
  return {.lr = paper_lr(lr), .beta3 = 0.9999, .alpha = alpha};
}

/// Its figure 5: AdEMAMix takes over from AdamW without schedules, with a smaller alpha. That the
/// lr of the AdamW run goes on is this library's reading.
AdEMAMix switched_rule(double lr, double alpha) {
  return {.lr = paper_lr(lr), .beta3 = 0.9999, .alpha = alpha, .alpha_steps = 0, .beta3_steps = 0};
}

/// Apertus 8B and 70B (arXiv 2509.14233), trained by swiss-ai's fork of Megatron-LM: schedules over
/// 100,000 steps of a run that is longer.
AdEMAMix apertus_rule() {
  Schedule lr = not_found;
  lr.shape = Schedule::Shape::wsd_sqrt;
  return {.lr = lr, .beta3 = 0.9999, .alpha = 8.0, .alpha_steps = 100'000, .beta3_steps = 100'000};
}

}  // namespace

std::span<const Preset> presets() {
  static const std::array all{
      Preset{.name = "paper-110m",
             .about = "AdEMAMix paper, 110M parameters, batch 64 x 1024",
             .rule = paper_rule(1e-3, 8.0),
             .adamw_lr = 1e-3,
             .clip_norm = 0.5},
      Preset{.name = "paper-330m",
             .about = "AdEMAMix paper, 330M parameters, batch 96 x 1024",
             .rule = paper_rule(5e-4, 8.0),
             .adamw_lr = 5e-4,
             .clip_norm = 0.1},
      Preset{.name = "paper-1.3b",
             .about = "AdEMAMix paper, 1.3G parameters, batch 128 x 1024",
             .rule = paper_rule(3e-4, 5.0),
             .adamw_lr = 5e-4,
             .clip_norm = 0.1},
      Preset{.name = "apertus",
             .about = "Apertus 8B and 70B; its lr is to be given",
             .rule = apertus_rule(),
             .adamw_lr = not_found,
             .clip_norm = 0.1},
      Preset{.name = "switch-110m",
             .about = "AdEMAMix paper, 110M parameters, from AdamW on the way",
             .rule = switched_rule(1e-3, 2.0),
             .adamw_lr = 1e-3,
             .clip_norm = 0.5},
      Preset{.name = "switch-1.3b",
             .about = "AdEMAMix paper, 1.3G parameters, from AdamW on the way",
             .rule = switched_rule(5e-4, 1.0),
             .adamw_lr = 5e-4,
             .clip_norm = 0.1},
  };
  return all;
}

const Preset& preset_named(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Preset& preset : presets()) {
    if (preset.name == name) return preset;
    names.push_back(preset.name);
  }
  throw ConfigError(
      fmt::format("there is no preset '{}'; expected one of {}", name, fmt::join(names, ", ")));
}

}  // namespace shardmix
