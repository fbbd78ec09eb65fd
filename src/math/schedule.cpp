#include "shardmix/schedule.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "shardmix/error.hpp"

namespace shardmix {
namespace {

using Shape = Schedule::Shape;

/// What is left of peak - final when the part `done` of the way to the end is done, both in 0..1.
double left_after(Shape shape, double done) {
  if (shape == Shape::cosine) return 0.5 * (1.0 + std::cos(std::numbers::pi * done));
  if (shape == Shape::wsd_sqrt) return 1.0 - std::sqrt(done);
  return 1.0 - done;  // linear and wsd
}

Schedule make(Shape shape, double peak, const WsdOptions& options) {
  Schedule schedule(peak);
  schedule.shape = shape;
  schedule.warmup = options.warmup;
  schedule.steps = options.steps;
  schedule.decay = options.decay;
  schedule.final = options.final;
  return schedule;
}

Schedule make(Shape shape, double peak, const FallingOptions& o) {
  return make(shape, peak, WsdOptions{.warmup = o.warmup, .steps = o.steps, .final = o.final});
}

Schedule make(Shape shape, double peak, const EndlessOptions& o) {
  return make(shape, peak, WsdOptions{.warmup = o.warmup, .steps = o.steps});
}

}  // namespace

double Schedule::at(std::int64_t step) const noexcept {
  if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  if (shape == Shape::constant) return peak;
  if (shape == Shape::inverse_sqrt) {
    const auto start = static_cast<double>(std::max<std::int64_t>(warmup, 1));
    return peak * std::sqrt(start / static_cast<double>(step));
  }
  const std::int64_t begin = info_of(shape).has_decay ? steps - decay : warmup;
  if (step <= begin) return peak;
  if (step >= steps) return final;
  const double done = static_cast<double>(step - begin) / static_cast<double>(steps - begin);
  return final + (peak - final) * left_after(shape, done);
}

void Schedule::validate(const std::string& what) const {
  const auto require_value = [&](std::string_view name, double value) {
    if (!(std::isfinite(value) && value >= 0.0)) {
      throw ConfigError(fmt::format("{}: the {} value must be at least 0 and finite, but is {}",
                                    what, name, value));
    }
  };
  const auto require_steps = [&](std::string_view name, std::int64_t least, std::int64_t value) {
    if (value < least) {
      throw ConfigError(fmt::format("{}: {} of the shape '{}' must be at least {}, but is {}", what,
                                    name, name_of(shape), least, value));
    }
  };
  const ShapeInfo& info = info_of(shape);
  require_value("peak", peak);
  require_value("final", final);
  require_steps("the warm-up", 0, warmup);
  require_steps("the decay", info.has_decay ? 1 : 0, decay);
  require_steps("the number of steps", info.has_end ? 1 : 0, steps);
  if (info.has_end && warmup > steps - decay) {
    throw ConfigError(
        fmt::format("{}: a warm-up of {} and a decay of {} steps don't fit into {} steps", what,
                    warmup, decay, steps));
  }
}

Schedule::Shape schedule_shape_named(std::string_view name) {
  std::vector<std::string_view> names;
  for (const ShapeInfo& info : schedule_shapes) {
    if (name == info.name) return info.shape;
    names.push_back(info.name);
  }
  throw ConfigError(fmt::format("there is no schedule shape '{}'; expected one of {}", name,
                                fmt::join(names, ", ")));
}

Schedule constant(double value, const EndlessOptions& options) {
  return make(Shape::constant, value, options);
}
Schedule linear(double peak, const FallingOptions& options) {
  return make(Shape::linear, peak, options);
}
Schedule cosine(double peak, const FallingOptions& options) {
  return make(Shape::cosine, peak, options);
}
Schedule wsd(double peak, const WsdOptions& options) {
  return make(Shape::wsd, peak, options);
}
Schedule wsd_sqrt(double peak, const WsdOptions& options) {
  return make(Shape::wsd_sqrt, peak, options);
}
Schedule inverse_sqrt(double peak, const EndlessOptions& options) {
  return make(Shape::inverse_sqrt, peak, options);
}

}  // namespace shardmix
