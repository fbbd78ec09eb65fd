#pragma once

/// What becomes of a state where a rule takes over from another: in a run, and in a load of a
/// checkpoint that another rule wrote.

#include <string_view>

#include "shardmix/rules.hpp"
#include "shardmix/switch.hpp"

namespace shardmix::optimizer {

/// Whether m2 starts when a rule takes over from another.
[[nodiscard]] constexpr bool m2_begins(const RuleStates& before, const RuleStates& after) noexcept {
  return after.m2 && (!before.m2 || before.m2_is_sum != after.m2_is_sum);
}

/// Sets the report's lists of states. A sum in place of an average counts as another m2.
void compare_states(SwitchReport& report, const RuleStates& before, const RuleStates& after);

/// Throws ConfigError where m2 can't start as the options say.
void require_m2_start(const SwitchOptions& options, const RuleStates& before,
                      const RuleStates& after, std::string_view from, std::string_view to);

}  // namespace shardmix::optimizer
