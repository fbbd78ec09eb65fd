#pragma once

/// What each update rule states about itself, in one file of this folder: its name, its
/// hyper-parameters and their ranges, the states that it keeps, and its kernel.
///
/// A kernel is a plain value with the step's scalars. It is called once for each element with the
/// gradient `g`, the fp32 weight `theta`, the state `s`, which it updates, and what computes its
/// square root and quotient (Roots, or a device's own); it returns the new weight. `kept` is what
/// it may keep. Every rounding is spelled out (fma where one is meant; the compilers may not
/// contract the rest), so all backends give the same bits. A state that the rule doesn't keep comes
/// as zero.
///
/// An average is written m + (1 - beta) (g - m): 1 - beta is rounded once, where beta and 1 - beta
/// in fp32 would not add up to 1 (for beta3 = 0.9999 the decay would be off by 1.7e-4 of itself).
///
/// A new rule is a struct in shardmix/rules.hpp, a file here, and its place in the two lists: Rule
/// and UpdateKernel.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "math/qualifiers.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::math {

/// Which step it is, each from 1.
struct StepClocks {
  std::int64_t step;       ///< for the lr schedule
  std::int64_t update;     ///< for the bias corrections
  std::int64_t slow_step;  ///< for the alpha and beta schedules
};

/// The state of one element, widened to fp32.
struct Moments {
  float m1;
  float m2;
  float v;
};

/// Square roots and quotients as the compiler has them.
struct Roots {
  [[nodiscard]] SHARDMIX_HOST_DEVICE float root(float x) const { return std::sqrt(x); }
  [[nodiscard]] SHARDMIX_HOST_DEVICE float quotient(float a, float b) const { return a / b; }
};

/// m + (1 - beta) (x - m), in two roundings.
SHARDMIX_HOST_DEVICE float averaged(float m, float x, float one_minus_beta) {
  return std::fma(one_minus_beta, x - m, m);
}

/// v + (1 - beta2) (g^2 - v), in two roundings.
SHARDMIX_HOST_DEVICE float averaged_square(float v, float g, float one_minus_beta2) {
  return std::fma(one_minus_beta2, std::fma(g, g, -v), v);
}

/// theta - lr (direction + weight_decay theta), in two roundings.
SHARDMIX_HOST_DEVICE float stepped(float theta, float direction, float lr, float weight_decay) {
  return std::fma(-lr, std::fma(weight_decay, theta, direction), theta);
}

/// 1 / (1 - beta^t).
inline float bias_correction(double beta, std::int64_t t) {
  return static_cast<float>(1.0 / (1.0 - std::pow(beta, static_cast<double>(t))));
}

/// 1 / sqrt(1 - beta^t).
inline float root_bias_correction(double beta, std::int64_t t) {
  return static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta, static_cast<double>(t))));
}

/// The values that a hyper-parameter may have; all are finite.
enum class Range : std::uint8_t {
  beta,          ///< [0, 1)
  positive,      ///< above 0
  non_negative,  ///< at least 0
};

template <class R, class T>
using Member = T R::*;

/// A hyper-parameter of rule R.
template <class R>
struct Number {
  std::string_view name;
  Member<R, double> value;
  Range range;
};
template <class R>  // Clang before 17 deduces none of an aggregate
Number(std::string_view, Member<R, double>, Range)->Number<R>;

/// The length of a schedule of rule R, in slow steps: 0 for none, unset for the lr schedule's.
template <class R>
struct Length {
  std::string_view name;
  Member<R, std::optional<std::int64_t>> steps;
};
template <class R>
Length(std::string_view, Member<R, std::optional<std::int64_t>>) -> Length<R>;

/// Specialised for each rule in its file:
///
///     static constexpr std::string_view name;     in files and options
///     static constexpr std::array numbers;        of Number<R>
///     static constexpr std::array lengths;        of Length<R>, may be empty
///     static RuleStates states(const R&);
///     static Kernel kernel(const R&, float lr, const StepClocks&);
template <class R>
struct Spec;

}  // namespace shardmix::math
