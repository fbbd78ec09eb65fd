#pragma once

/// From a rule, a group and the clocks to the scalars of one step, computed in double.

#include <cstdint>

#include "math/update_rules.hpp"
#include "shardmix/parameters.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::math {

/// Which step it is, each from 1.
struct StepClocks {
  std::int64_t step;       ///< for the lr schedule
  std::int64_t update;     ///< for the bias corrections
  std::int64_t slow_step;  ///< for the alpha and beta3 schedules
};

[[nodiscard]] UpdateKernel update_kernel(const Rule& rule, const Group& group,
                                         const StepClocks& clocks);

}  // namespace shardmix::math
