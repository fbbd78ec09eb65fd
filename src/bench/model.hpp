#pragma once

/// A model to measure with: tensors of a bucket's size, so that a backward pass can mark them one
/// after the other.

#include <cstdint>

#include "bench/precisions.hpp"
#include "device/device.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix::bench {

[[nodiscard]] Parameters flat_model(std::int64_t parameters, std::int64_t bucket_elements,
                                    DType dtype);

[[nodiscard]] OptimizerOptions optimizer_options(const Precision& precision,
                                                 std::int64_t bucket_elements, bool overlap);

/// Gives it values and gradients. Collective.
void fill_model(device::Device& device, ShardedOptimizer& optimizer);

}  // namespace shardmix::bench
