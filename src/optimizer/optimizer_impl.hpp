#pragma once

#include <array>
#include <future>
#include <vector>

#include "optimizer/reducer.hpp"
#include "optimizer/sharded_state.hpp"

namespace shardmix {

namespace optimizer {

/// Throws ConfigError for bad hyper-parameters of the rule, or of a parameter's group.
void validate_for(const Rule& rule, const Parameters& parameters);

}  // namespace optimizer

/// What stands behind a ShardedOptimizer, for the rooms above.
struct ShardedOptimizer::Impl {
  /// `memory`: the flat buffers of the parameters and of the gradients.
  Impl(Runtime& runtime, Parameters parameters, layout::Layout layout,
       std::array<device::Buffer, 2> memory, Rule rule, const OptimizerOptions& options);
  ~Impl() { await_readers(); }

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
  bool writes_copies;  ///< the update itself writes its neighbours' parameters
  double loss_scale;
  std::int64_t usable_steps = 0;    ///< since the loss scale changed
  std::shared_future<void> reader;  ///< of who reads the state in the background: ready when done

  /// Before the state, or this rank's slices of the parameters, may change.
  void await_readers() const {
    if (reader.valid()) reader.wait();
  }
  /// The step's kernel for each group of parameters.
  [[nodiscard]] std::vector<math::UpdateKernel> group_kernels() const;
  /// Updates this rank's slice of a bucket.
  void update_bucket(std::size_t bucket, const std::vector<math::UpdateKernel>& kernels);
  void queue_updates();
  void adapt_loss_scale(bool usable);
  /// Begins to bring every rank's slice of a bucket's parameters here.
  void begin_gather(std::size_t bucket, comm::Written written);
  void wait_bucket(std::size_t bucket);
  void wait_all();
  /// Brings all ranks' parameters here after each wrote its own master slices.
  void gather_all();
  /// Makes rank `root`'s parameters everyone's.
  void broadcast_buffer(int root);
  /// Sets m2 to the m1 beside it, corrected as `to`, an AdEMAMix, would: see M2Start.
  void start_m2_from_m1(const Rule& to);
  /// Logs a warning where the rule's beta3 remembers longer than its lr schedule's run.
  void log_beta3_advice() const;
};

}  // namespace shardmix
