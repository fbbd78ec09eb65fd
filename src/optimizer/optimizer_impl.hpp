#pragma once

#include <vector>

#include "optimizer/reducer.hpp"
#include "optimizer/sharded_state.hpp"

namespace shardmix {

/// What stands behind a ShardedOptimizer, for the rooms above.
struct ShardedOptimizer::Impl {
  Impl(Runtime& runtime, Parameters parameters, Rule rule, const OptimizerOptions& options);

  const Runtime& runtime;
  comm::Collectives& collectives;
  device::Device& device;
  Parameters parameters;
  Rule rule;
  OptimizerOptions options;
  Clocks clocks;
  bool has_values = false;  ///< parameters were broadcast or loaded
  optimizer::ShardedState state;
  optimizer::Reducer reducer;
  std::vector<std::unique_ptr<comm::Gather>> gathers;  ///< of each bucket; null when done

  /// Updates this rank's slice of a bucket; `gradient_scale` makes the sum the clipped mean.
  void update_bucket(std::size_t bucket, float gradient_scale);
  /// Begins to bring every rank's slice of a bucket's parameters here.
  void begin_gather(std::size_t bucket);
  void wait_bucket(std::size_t bucket);
  void wait_all();
  /// Brings all ranks' parameters here after each wrote its own master slices.
  void gather_all();
  /// Logs a warning where the rule's beta3 remembers longer than its lr schedule's run.
  void log_beta3_advice() const;
};

}  // namespace shardmix
