#include "shardmix/rules.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <vector>

#include "math/update_rules.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace {

using math::Range;
using math::Spec;

bool is_in(Range range, double value) {
  // A nan fails every comparison. The kernels hold numbers in fp32, where one may become 0 or
  // infinite.
  const auto held = static_cast<float>(value);
  switch (range) {
    case Range::beta:
      return value >= 0.0 && value < 1.0;
    case Range::positive:
      return held > 0.0f && std::isfinite(held);
    case Range::non_negative:
      return value >= 0.0 && std::isfinite(held);
  }
  return false;
}

std::string_view describe(Range range) {
  switch (range) {
    case Range::beta:
      return "at least 0 and below 1";
    case Range::positive:
      return "above 0 and finite in fp32";
    case Range::non_negative:
      return "at least 0 and finite in fp32";
  }
  return {};
}

std::int64_t length_of(const std::optional<std::int64_t>& steps, const Schedule& lr) {
  return steps.value_or(lr.steps);
}

/// From beta `start` to `end` over `steps`, linear in half-life; that is proportional to
/// 1/ln(beta).
double beta_at(double start, double end, std::int64_t step, std::int64_t steps) {
  if (step >= steps || end <= start) return end;
  const double done = static_cast<double>(step) / static_cast<double>(steps);
  if (start == 0.0) return std::pow(end, 1.0 / done);  // the limit
  const double from = std::log(start);
  const double to = std::log(end);
  return std::exp(from * to / ((1.0 - done) * to + done * from));
}

template <class R>
void validate_rule(const R& rule) {
  using S = Spec<R>;
  rule.lr.validate(fmt::format("lr of {}", S::name));
  for (const auto& number : S::numbers) {
    if (const double found = rule.*number.value; !is_in(number.range, found)) {
      throw ConfigError(fmt::format("{} of {} must be {}, but is {}", number.name, S::name,
                                    describe(number.range), found));
    }
  }
  for (const auto& length : S::lengths) {
    if (const std::int64_t found = (rule.*length.steps).value_or(0); found < 0) {
      throw ConfigError(fmt::format("{} of {} must be at least 0 (0: no schedule), but is {}",
                                    length.name, S::name, found));
    }
  }
}

template <class R>
void set_number(R& rule, const std::string& name, double value) {
  std::vector<std::string_view> names;
  for (const auto& number : Spec<R>::numbers) {
    if (number.name == name) {
      rule.*number.value = value;
      return;
    }
    names.push_back(number.name);
  }
  throw ConfigError(
      fmt::format("a group of parameters sets '{}', but {} has no such number; it "
                  "has {}",
                  name, Spec<R>::name, fmt::join(names, ", ")));
}

template <std::size_t... I>
std::vector<Rule> all_rules(std::index_sequence<I...> /*all*/) {
  return {std::variant_alternative_t<I, Rule>{}...};
}

}  // namespace

double AdEMAMix::alpha_at(std::int64_t slow_step) const noexcept {
  const std::int64_t steps = length_of(alpha_steps, lr);
  if (slow_step >= steps) return alpha;
  return alpha * static_cast<double>(slow_step) / static_cast<double>(steps);
}

double AdEMAMix::beta3_at(std::int64_t slow_step) const noexcept {
  return beta_at(beta1, beta3, slow_step, length_of(beta3_steps, lr));
}

double SimplifiedAdEMAMix::beta1_at(std::int64_t slow_step) const noexcept {
  return beta_at(min_beta1, beta1, slow_step, length_of(beta1_steps, lr));
}

std::string_view name_of(const Rule& rule) noexcept {
  return std::visit([]<class R>(const R&) { return Spec<R>::name; }, rule);
}

RuleStates states_of(const Rule& rule) noexcept {
  return std::visit([]<class R>(const R& r) { return Spec<R>::states(r); }, rule);
}

const Schedule& lr_of(const Rule& rule) noexcept {
  return std::visit([](const auto& r) -> const Schedule& { return r.lr; }, rule);
}

std::vector<Rule> all_rules() {
  return all_rules(std::make_index_sequence<std::variant_size_v<Rule>>{});
}

Rule rule_named(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Rule& rule : all_rules()) {
    if (name_of(rule) == name) return rule;
    names.push_back(name_of(rule));
  }
  throw ConfigError(fmt::format("there is no update rule '{}'; expected one of {}", name,
                                fmt::join(names, ", ")));
}

void validate(const Rule& rule) {
  std::visit([](const auto& r) { validate_rule(r); }, rule);
}

Rule rule_for(const Rule& rule, const Group& group) {
  Rule own = rule;
  std::visit(
      [&](auto& r) {
        if (group.weight_decay) r.weight_decay = *group.weight_decay;
        for (const auto& [name, value] : group.hyper_parameters) set_number(r, name, value);
      },
      own);
  validate(own);
  const RuleStates needed = states_of(own);
  const RuleStates kept = states_of(rule);
  if ((needed.m1 && !kept.m1) || (needed.m2 && !kept.m2) || (needed.v && !kept.v)) {
    throw ConfigError(
        fmt::format("a group of parameters changes {} so that it needs a state that the rule "
                    "itself doesn't keep (m1, where beta1 is 0); give the rule that value",
                    name_of(rule)));
  }
  return own;
}

namespace math {

UpdateKernel update_kernel(const Rule& rule, const Group& group, const StepClocks& clocks) {
  return std::visit(
      [&]<class R>(const R& r) -> UpdateKernel {
        const auto lr = static_cast<float>(r.lr.at(clocks.step) * group.lr_scale);
        return Spec<R>::kernel(r, lr, clocks);
      },
      rule_for(rule, group));
}

}  // namespace math
}  // namespace shardmix
