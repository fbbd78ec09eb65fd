#include "bench/model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "bench/workload.hpp"

namespace shardmix::bench {

Parameters flat_model(std::int64_t parameters, std::int64_t bucket_elements, DType dtype) {
  Parameters model;
  for (std::int64_t begin = 0; begin < parameters; begin += bucket_elements) {
    model.add(fmt::format("weight.{}", model.size()),
              {std::min(bucket_elements, parameters - begin)}, dtype);
  }
  return model;
}

OptimizerOptions optimizer_options(const Precision& precision, std::int64_t bucket_elements,
                                   bool overlap) {
  const bool is_compact = precision.state == device::StateStorage::compact;
  return {.master = precision.weights == device::WeightStorage::master      ? Master::full
                    : precision.weights == device::WeightStorage::remainder ? Master::remainder
                                                                            : Master::none,
          .state = is_compact ? StateFormat::compact : StateFormat::full,
          .bucket_elements = bucket_elements,
          .overlap = overlap};
}

void fill_model(device::Device& device, ShardedOptimizer& optimizer) {
  for (const Parameter& p : optimizer.parameters()) {
    const TensorView gradient = optimizer.gradient(p.name);
    fill(device, p.dtype, gradient.data, gradient.elements, 1e-2f);
    const TensorView values = optimizer.parameter(p.name);
    fill(device, p.dtype, values.data, values.elements, 1.0f);
  }
  optimizer.broadcast_parameters();
}

}  // namespace shardmix::bench
