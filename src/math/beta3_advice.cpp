#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "shardmix/rules.hpp"

namespace shardmix {

double auto_beta3(std::int64_t steps, double beta1) noexcept {
  constexpr double paper_beta3 = 0.9999;
  const double fifth = std::max(1.0, 0.2 * static_cast<double>(steps));
  return std::max(beta1, std::min(1.0 - 1.0 / fifth, paper_beta3));
}

std::string beta3_advice(const Rule& rule, std::int64_t steps) {
  const auto* ademamix = std::get_if<AdEMAMix>(&rule);
  if (ademamix == nullptr || steps <= 0) return {};
  // 1 / (1 - 0.9999) is a little above 10000 in floating point.
  const double memory = std::round(1.0 / (1.0 - ademamix->beta3));
  const double automatic = auto_beta3(steps, ademamix->beta1);
  if (memory <= static_cast<double>(steps) || ademamix->beta3 <= automatic) return {};
  return fmt::format(
      "beta3 = {} remembers {:.0f} steps, but the run has {}: short runs with so long a memory "
      "often diverge. The automatic beta3 of a run of {} steps is {:.6g}",
      ademamix->beta3, memory, steps, steps, automatic);
}

}  // namespace shardmix
