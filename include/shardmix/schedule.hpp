#pragma once

/// Learning-rate schedules as plain values: a pure function of the step.
///
/// Steps count from 1. During warm-up the value is peak * step / warmup; at step `warmup` it is the
/// peak. A schedule is evaluated in double from the step number alone, so a resumed run can't
/// drift.

#include <cstdint>
#include <string>

namespace shardmix {

struct Schedule {
  enum class Shape : std::uint8_t { constant, cosine, wsd };

  Shape shape = Shape::constant;
  double peak = 0.0;
  double final = 0.0;       ///< the value at step `steps` and after it (not for constant)
  std::int64_t warmup = 0;  ///< steps of linear warm-up
  std::int64_t decay = 0;   ///< wsd: the last steps, over which it falls to `final`
  std::int64_t steps = 0;   ///< length of the run; 0: no end (constant only)

  Schedule() = default;
  Schedule(double value) : peak(value) {}  // NOLINT: a number is a constant schedule

  /// The value at `step` >= 1.
  [[nodiscard]] double at(std::int64_t step) const noexcept;

  /// Throws ConfigError, calling it `what`, for a negative or non-finite value or a warm-up or
  /// decay that doesn't fit into the steps.
  void validate(const std::string& what) const;

  bool operator==(const Schedule&) const = default;
};

struct ConstantOptions {
  std::int64_t warmup = 0;
};
struct CosineOptions {
  std::int64_t warmup = 0;
  std::int64_t steps = 0;
  double final = 0.0;
};
struct WsdOptions {
  std::int64_t warmup = 0;
  std::int64_t steps = 0;
  std::int64_t decay = 0;
  double final = 0.0;
};

/// Warm-up, then `value` for ever.
[[nodiscard]] Schedule constant(double value, const ConstantOptions& options = {});

/// Warm-up, then half a cosine from `peak` to `final` at step `steps`.
[[nodiscard]] Schedule cosine(double peak, const CosineOptions& options);

/// Warm-up, stable at `peak`, then linear decay over the last `decay` steps (WSD).
[[nodiscard]] Schedule wsd(double peak, const WsdOptions& options);

}  // namespace shardmix
