#pragma once

/// What a step does with its gradient, from the squares of all ranks.

#include <cmath>

#include "device/device.hpp"
#include "math/qualifiers.hpp"

namespace shardmix::device {

[[nodiscard]] SHARDMIX_HOST_DEVICE UpdateControl decision(const DecideTask& task) {
  UpdateControl control;
  if (task.squares->unusable != 0) {
    control.skip = 1;
    return control;
  }
  control.norm = sqrt(math::ExactSum::value_of(task.squares->digits));
  const double norm = control.norm * task.mean;
  if (task.clip_norm > 0.0 && norm > task.clip_norm) control.clip_scale = task.clip_norm / norm;
  control.gradient_scale = static_cast<float>(task.mean * control.clip_scale);
  return control;
}

}  // namespace shardmix::device
