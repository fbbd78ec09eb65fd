#include "shardmix/rules.hpp"

#include <fmt/format.h>

#include <cmath>

#include "math/step_scalars.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace {

void require(bool holds, std::string_view rule, std::string_view name, std::string_view range,
             double found) {
  // A nan fails every comparison, so it ends here too.
  if (!holds) {
    throw ConfigError(fmt::format("{} of {} must be {}, but is {}", name, rule, range, found));
  }
}

bool is_finite_at_least(double value, double least) {
  return std::isfinite(value) && value >= least;
}
bool is_beta(double value) {
  return value >= 0.0 && value < 1.0;
}

template <class R>
void validate_common(const R& rule, std::string_view name) {
  rule.lr.validate(fmt::format("lr of {}", name));
  require(is_beta(rule.beta1), name, "beta1", "at least 0 and below 1", rule.beta1);
  require(is_beta(rule.beta2), name, "beta2", "at least 0 and below 1", rule.beta2);
  require(std::isfinite(rule.eps) && rule.eps > 0.0, name, "eps", "above 0 and finite", rule.eps);
  require(is_finite_at_least(rule.weight_decay, 0.0), name, "weight_decay", "at least 0 and finite",
          rule.weight_decay);
}

std::int64_t schedule_steps(const std::optional<std::int64_t>& steps, const Schedule& lr) {
  return steps.value_or(lr.steps);
}

}  // namespace

double AdEMAMix::alpha_at(std::int64_t slow_step) const noexcept {
  const std::int64_t steps = schedule_steps(alpha_steps, lr);
  if (slow_step >= steps) return alpha;
  return alpha * static_cast<double>(slow_step) / static_cast<double>(steps);
}

double AdEMAMix::beta3_at(std::int64_t slow_step) const noexcept {
  const std::int64_t steps = schedule_steps(beta3_steps, lr);
  if (slow_step >= steps || beta3 <= beta1) return beta3;
  const double done = static_cast<double>(slow_step) / static_cast<double>(steps);
  if (beta1 == 0.0) return std::pow(beta3, 1.0 / done);
  // Half-lives are proportional to 1/ln(beta): interpolate those.
  const double start = std::log(beta1);
  const double end = std::log(beta3);
  return std::exp(start * end / ((1.0 - done) * end + done * start));
}

std::string_view name_of(const Rule& rule) noexcept {
  return std::holds_alternative<AdEMAMix>(rule) ? "ademamix" : "adamw";
}

RuleStates states_of(const Rule& rule) noexcept {
  if (const auto* ademamix = std::get_if<AdEMAMix>(&rule)) {
    return {.m1 = ademamix->beta1 != 0.0, .m2 = true, .v = true};
  }
  return {.m1 = true, .m2 = false, .v = true};
}

const Schedule& lr_of(const Rule& rule) noexcept {
  return std::visit([](const auto& r) -> const Schedule& { return r.lr; }, rule);
}

void validate(const Rule& rule) {
  std::visit([&](const auto& r) { validate_common(r, name_of(rule)); }, rule);
  if (const auto* r = std::get_if<AdEMAMix>(&rule)) {
    require(is_beta(r->beta3), "ademamix", "beta3", "at least 0 and below 1", r->beta3);
    require(is_finite_at_least(r->alpha, 0.0), "ademamix", "alpha", "at least 0 and finite",
            r->alpha);
    for (const auto& [name, steps] :
         {std::pair{"alpha_steps", r->alpha_steps}, {"beta3_steps", r->beta3_steps}}) {
      const auto found = static_cast<double>(steps.value_or(0));
      require(found >= 0, "ademamix", name, "at least 0 (0: no schedule)", found);
    }
  }
}

namespace math {
namespace {

/// The scalars that both rules have.
template <class Kernel, class R>
Kernel common_scalars(const R& rule, const Group& group, const StepClocks& clocks) {
  const auto t = static_cast<double>(clocks.update);
  Kernel kernel{};
  kernel.one_minus_beta1 = static_cast<float>(1.0 - rule.beta1);
  kernel.one_minus_beta2 = static_cast<float>(1.0 - rule.beta2);
  kernel.m1_correction = static_cast<float>(1.0 / (1.0 - std::pow(rule.beta1, t)));
  kernel.root_v_correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(rule.beta2, t)));
  kernel.eps = static_cast<float>(rule.eps);
  kernel.lr = static_cast<float>(rule.lr.at(clocks.step) * group.lr_scale);
  kernel.weight_decay = static_cast<float>(group.weight_decay.value_or(rule.weight_decay));
  return kernel;
}

template <bool HasM1>
UpdateKernel ademamix_kernel(const AdEMAMix& rule, const Group& group, const StepClocks& clocks) {
  auto kernel = common_scalars<AdEMAMixKernel<HasM1>>(rule, group, clocks);
  kernel.one_minus_beta3 = static_cast<float>(1.0 - rule.beta3_at(clocks.slow_step));
  kernel.alpha = static_cast<float>(rule.alpha_at(clocks.slow_step));
  return kernel;
}

}  // namespace

UpdateKernel update_kernel(const Rule& rule, const Group& group, const StepClocks& clocks) {
  if (const auto* r = std::get_if<AdEMAMix>(&rule)) {
    return r->beta1 == 0.0 ? ademamix_kernel<false>(*r, group, clocks)
                           : ademamix_kernel<true>(*r, group, clocks);
  }
  return common_scalars<AdamWKernel>(std::get<AdamW>(rule), group, clocks);
}

}  // namespace math
}  // namespace shardmix
