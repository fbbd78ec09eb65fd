#pragma once

/// Hyper-parameters that were published with their results, by name.
///
///     AdEMAMix rule = preset_named("paper-110m").rule;
///     rule.lr.steps = 100'000;

#include <span>
#include <string_view>

#include "shardmix/rules.hpp"

namespace shardmix {

struct Preset {
  std::string_view name = {};
  std::string_view about = {};  ///< the model, and where the numbers are from
  /// Of the published run: lr.steps is its length, and that of the schedules of alpha and beta3
  /// where theirs is unset. An lr.peak of nan wasn't found: it is to be set, or nothing accepts it.
  AdEMAMix rule = {};
  double adamw_lr = 0.0;  ///< the peak for AdamW on the same model; nan as above
  double clip_norm = 0.0;
};

/// "paper-110m", "paper-330m", "paper-1.3b", "apertus", and for what follows a switch from AdamW
/// "switch-110m" and "switch-1.3b".
[[nodiscard]] std::span<const Preset> presets();

/// Throws ConfigError, listing the names there are, for another one.
[[nodiscard]] const Preset& preset_named(std::string_view name);

}  // namespace shardmix
