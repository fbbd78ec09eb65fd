#include "shardmix/schedule.hpp"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "shardmix/error.hpp"

namespace shardmix {

double Schedule::at(std::int64_t step) const noexcept {
  if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  if (shape == Shape::constant) return peak;
  if (step >= steps) return final;
  const std::int64_t begin = shape == Shape::cosine ? warmup : steps - decay;
  if (step <= begin) return peak;
  const double done = static_cast<double>(step - begin) / static_cast<double>(steps - begin);
  const double left =
      shape == Shape::cosine ? 0.5 * (1.0 + std::cos(std::numbers::pi * done)) : 1.0 - done;
  return final + (peak - final) * left;
}

void Schedule::validate(const std::string& what) const {
  for (const double value : {peak, final}) {
    if (!(std::isfinite(value) && value >= 0.0)) {
      throw ConfigError(fmt::format("{} must be at least 0 and finite, but is {}", what, value));
    }
  }
  if (warmup < 0 || decay < 0 || steps < 0) {
    throw ConfigError(fmt::format("{}: warm-up ({}), decay ({}) and steps ({}) can't be negative",
                                  what, warmup, decay, steps));
  }
  if (shape != Shape::constant && (steps == 0 || warmup + decay > steps)) {
    throw ConfigError(
        fmt::format("{}: a warm-up of {} and a decay of {} steps don't fit into {} steps", what,
                    warmup, decay, steps));
  }
}

Schedule constant(double value, const ConstantOptions& options) {
  Schedule schedule(value);
  schedule.warmup = options.warmup;
  return schedule;
}

Schedule cosine(double peak, const CosineOptions& options) {
  Schedule schedule(peak);
  schedule.shape = Schedule::Shape::cosine;
  schedule.warmup = options.warmup;
  schedule.steps = options.steps;
  schedule.final = options.final;
  return schedule;
}

Schedule wsd(double peak, const WsdOptions& options) {
  Schedule schedule(peak);
  schedule.shape = Schedule::Shape::wsd;
  schedule.warmup = options.warmup;
  schedule.steps = options.steps;
  schedule.decay = options.decay;
  schedule.final = options.final;
  return schedule;
}

}  // namespace shardmix
