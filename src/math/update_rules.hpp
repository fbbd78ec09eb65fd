#pragma once

/// All update rules: from a rule, a group and the clocks to the kernel of one step.

#include <variant>

#include "math/rules/adamw.hpp"
#include "math/rules/ademamix.hpp"
#include "math/rules/lion.hpp"
#include "math/rules/simplified_ademamix.hpp"
#include "shardmix/parameters.hpp"

namespace shardmix::math {

using UpdateKernel =
    std::variant<AdEMAMixKernel, AdamWKernel, SimplifiedAdEMAMixKernel, LionKernel>;

/// The kernel with the scalars of one step, computed in double.
[[nodiscard]] UpdateKernel update_kernel(const Rule& rule, const Group& group,
                                         const StepClocks& clocks);

/// Calls `visit(name, value)` for each hyper-parameter but lr: a double, or std::int64_t for the
/// length of a schedule.
template <class Visit>
void for_each_hyper_parameter(const Rule& rule, const Visit& visit) {
  std::visit(
      [&]<class R>(const R& r) {
        for (const auto& number : Spec<R>::numbers) visit(number.name, r.*number.value);
        for (const auto& length : Spec<R>::lengths)
          visit(length.name, (r.*length.steps).value_or(r.lr.steps));
      },
      rule);
}

}  // namespace shardmix::math
