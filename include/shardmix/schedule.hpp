#pragma once

/// Learning-rate schedules as plain values: a pure function of the step.
///
/// Steps count from 1. During warm-up the value is peak * step / warmup; at step `warmup` it is the
/// peak, whatever the shape. A schedule is evaluated in double from the step number alone, so a
/// resumed run can't drift.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace shardmix {

struct Schedule {
  /// What comes after the warm-up; the functions below that make schedules say what each one is.
  enum class Shape : std::uint8_t { constant, linear, cosine, wsd, wsd_sqrt, inverse_sqrt };

  Shape shape = Shape::constant;
  double peak = 0.0;
  double final = 0.0;       ///< of a shape with an end: the value at step `steps` and after it
  std::int64_t warmup = 0;  ///< steps of linear warm-up
  std::int64_t decay = 0;   ///< of wsd and wsd_sqrt: the last steps, over which it falls to `final`
  std::int64_t steps = 0;   ///< length of the run; 0: not known, for a shape without an end

  Schedule() = default;
  Schedule(double value) : peak(value) {}  // NOLINT: a number is a constant schedule

  /// The value at `step` >= 1.
  [[nodiscard]] double at(std::int64_t step) const noexcept;

  /// Throws ConfigError, calling the schedule `what`, for a negative or non-finite value, a
  /// negative or missing number of steps, or a warm-up and decay that don't fit into the steps.
  void validate(const std::string& what) const;

  bool operator==(const Schedule&) const = default;
};

/// A shape's name, as checkpoints and the command line have it, and the numbers that it needs.
struct ShapeInfo {
  Schedule::Shape shape;
  std::string_view name;
  bool has_end = false;    ///< needs `steps`, where it reaches `final`
  bool has_decay = false;  ///< needs `decay`
};

/// All shapes, in the order of the enumeration.
inline constexpr std::array schedule_shapes{
    ShapeInfo{.shape = Schedule::Shape::constant, .name = "constant"},
    ShapeInfo{.shape = Schedule::Shape::linear, .name = "linear", .has_end = true},
    ShapeInfo{.shape = Schedule::Shape::cosine, .name = "cosine", .has_end = true},
    ShapeInfo{.shape = Schedule::Shape::wsd, .name = "wsd", .has_end = true, .has_decay = true},
    ShapeInfo{
        .shape = Schedule::Shape::wsd_sqrt, .name = "wsd-sqrt", .has_end = true, .has_decay = true},
    ShapeInfo{.shape = Schedule::Shape::inverse_sqrt, .name = "inverse-sqrt"},
};

[[nodiscard]] constexpr const ShapeInfo& info_of(Schedule::Shape shape) noexcept {
  return schedule_shapes[static_cast<std::size_t>(shape)];
}

/// "constant", "linear", "cosine", "wsd", "wsd-sqrt" or "inverse-sqrt".
[[nodiscard]] constexpr std::string_view name_of(Schedule::Shape shape) noexcept {
  return info_of(shape).name;
}

/// The inverse of name_of(). Throws ConfigError, listing the names there are, for any other text.
[[nodiscard]] Schedule::Shape schedule_shape_named(std::string_view name);

/// Of a shape without an end. The values don't depend on `steps`; AdEMAMix takes the length of its
/// own schedules from there.
struct EndlessOptions {
  std::int64_t warmup = 0;
  std::int64_t steps = 0;  ///< 0: not known
};
/// Of a shape that falls from the end of the warm-up to step `steps`.
struct FallingOptions {
  std::int64_t warmup = 0;
  std::int64_t steps = 0;
  double final = 0.0;
};
struct WsdOptions {
  std::int64_t warmup = 0;
  std::int64_t steps = 0;
  std::int64_t decay = 0;  ///< at least 1
  double final = 0.0;
};

/// Warm-up, then `value` for ever.
[[nodiscard]] Schedule constant(double value, const EndlessOptions& options = {});

/// Warm-up, then a straight line from `peak` to `final` at step `steps`.
[[nodiscard]] Schedule linear(double peak, const FallingOptions& options);

/// Warm-up, then half a cosine from `peak` to `final` at step `steps` (Loshchilov and Hutter, arXiv
/// 1608.03983, without restarts).
[[nodiscard]] Schedule cosine(double peak, const FallingOptions& options);

/// Warm-up, stable at `peak`, then linear decay to `final` over the last `decay` steps (WSD).
[[nodiscard]] Schedule wsd(double peak, const WsdOptions& options);

/// As wsd(), but with the decay final + (peak - final) (1 - sqrt(done)), where `done` goes from 0
/// to 1 over the last `decay` steps (Haegele et al., arXiv 2405.18392).
[[nodiscard]] Schedule wsd_sqrt(double peak, const WsdOptions& options);

/// Warm-up, then peak * sqrt(w / step) for ever, where w is the warm-up, but at least 1 (Vaswani et
/// al., arXiv 1706.03762; their factor is the peak here).
[[nodiscard]] Schedule inverse_sqrt(double peak, const EndlessOptions& options = {});

}  // namespace shardmix
