#pragma once

/// A model of awkward shapes, its gradients, and an oracle that trains it whole on every rank.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "math/bfloat16.hpp"
#include "math/float16.hpp"
#include "math/philox.hpp"
#include "shardmix/mpi.hpp"
#include "shardmix/optimizer.hpp"
#include "support/reference.hpp"
#include "support/runtime.hpp"

namespace shardmix::testing {

/// Scalars, empty, prime, tied and frozen parameters, two groups; all of `dtype` but one.
inline Parameters awkward_parameters(DType dtype = fp32) {
  Parameters parameters;
  parameters.add("scalar", {}, dtype, {.weight_decay = 0.0});
  parameters.add("empty", {0, 5}, dtype);
  parameters.add("prime", {7919}, dtype);
  parameters.add("frozen", {300}, dtype, {.trainable = false});
  parameters.add("matrix", {33, 65}, dtype, {.lr_scale = 0.5});
  parameters.add("norm", {257}, fp32, {.weight_decay = 0.0});
  parameters.add("embedding", {64, 100}, dtype);
  parameters.tie("head", "embedding");
  return parameters;
}

/// A number in [-1, 1) that depends on its arguments alone.
inline double noise(std::uint32_t stream, std::uint32_t step, std::uint32_t parameter,
                    std::uint32_t element) {
  return static_cast<double>(math::philox4x32({element, parameter, step, stream}, 17, 4).word[0]) /
             2147483648.0 -
         1.0;
}

inline double value_of(const TensorView& view, std::int64_t i) {
  const auto at = static_cast<std::size_t>(i);
  if (view.dtype == fp32) return view.as<float>()[at];
  const std::uint16_t bits = view.as<std::uint16_t>()[at];
  return view.dtype == bf16 ? math::float_from_bf16(bits) : math::float_from_fp16(bits);
}

inline void set_value(const TensorView& view, std::int64_t i, double value) {
  const auto at = static_cast<std::size_t>(i);
  const auto nearest = static_cast<float>(value);
  if (view.dtype == fp32) {
    view.as<float>()[at] = nearest;
  } else {
    view.as<std::uint16_t>()[at] =
        view.dtype == bf16 ? math::bf16_from_float(nearest) : math::fp16_from_float(nearest);
  }
}

/// A view's values on the host; changed ones go back at the end of the scope.
class OnHost {
 public:
  OnHost(ShardedOptimizer& optimizer, const TensorView& there)
      : optimizer_(optimizer), there_(there), here_(there) {
    memory_.resize(static_cast<std::size_t>(there.elements) + 1);
    here_.data = memory_.data();
    optimizer.read(there, here_.data);
    before_ = memory_;
  }
  ~OnHost() {
    if (memory_ != before_) optimizer_.write(there_, here_.data);
  }
  OnHost(const OnHost&) = delete;
  OnHost& operator=(const OnHost&) = delete;
  [[nodiscard]] const TensorView& view() const noexcept { return here_; }

 private:
  ShardedOptimizer& optimizer_;
  TensorView there_;
  TensorView here_;
  std::vector<std::uint32_t> memory_;
  std::vector<std::uint32_t> before_;
};

inline void set_value(ShardedOptimizer& optimizer, const TensorView& view, std::int64_t i,
                      double value) {
  set_value(OnHost(optimizer, view).view(), i, value);
}

/// The value of `dtype` that set_value() stores.
inline double rounded(DType dtype, double value) {
  std::uint32_t memory = 0;
  const TensorView view{.data = &memory, .dtype = dtype, .elements = 1};
  set_value(view, 0, value);
  return value_of(view, 0);
}

inline std::vector<double> values_of(ShardedOptimizer& optimizer, const TensorView& view) {
  const OnHost host(optimizer, view);
  std::vector<double> values;
  for (std::int64_t i = 0; i < view.elements; ++i) values.push_back(value_of(host.view(), i));
  return values;
}
inline void set_values(ShardedOptimizer& optimizer, const TensorView& view, double value) {
  const OnHost host(optimizer, view);
  for (std::int64_t i = 0; i < view.elements; ++i) set_value(host.view(), i, value);
}

/// All values of all parameters, as they are in the buffers: for comparing bits.
inline std::map<std::string, std::vector<double>> snapshot(ShardedOptimizer& optimizer) {
  std::map<std::string, std::vector<double>> values;
  for (const Parameter& p : optimizer.parameters()) {
    if (p.elements() > 0) values[p.name] = values_of(optimizer, optimizer.parameter(p.name));
  }
  return values;
}

inline void start(ShardedOptimizer& optimizer, int rank = 0) {
  std::uint32_t number = 0;
  for (const Parameter& p : optimizer.parameters()) {
    const OnHost host(optimizer, optimizer.parameter(p.name));
    const TensorView& view = host.view();
    for (std::int64_t i = 0; i < view.elements; ++i) {
      // Other ranks hold something else until rank 0's values reach them.
      set_value(view, i, rank + noise(1, 0, number, static_cast<std::uint32_t>(i)));
    }
    ++number;
  }
  optimizer.broadcast_parameters();
}

/// Writes the gradient of slot `slot` (a rank's micro-batch) in step `step`.
inline void write_gradients(ShardedOptimizer& optimizer, std::uint32_t step, std::uint32_t slot,
                            double scale = 1.0) {
  std::uint32_t number = 0;
  for (const Parameter& p : optimizer.parameters()) {
    ++number;
    if (!p.group.trainable) continue;
    const OnHost host(optimizer, optimizer.gradient(p.name));
    const TensorView& view = host.view();
    for (std::int64_t i = 0; i < view.elements; ++i) {
      set_value(view, i, scale * noise(100 + slot, step, number, static_cast<std::uint32_t>(i)));
    }
  }
}

}  // namespace shardmix::testing
