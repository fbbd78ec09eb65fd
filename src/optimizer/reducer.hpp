#pragma once

/// The first half of a step: gradients are reduced to the shard, bucket by bucket, while backward
/// goes on.
///
/// Buckets begin in the order in which backward completes them, from the last to the first, and in
/// that order on every rank: a bucket that is ready early waits for those behind it. A few are
/// under way at a time, so that the memory for peers' slices stays small.
///
/// Where ranks read each other's gradients in place, few ranks move fewer bytes if they read them
/// twice, for the norm and for the update, than if they store the fp32 sum in between: at w bytes
/// an element R ranks read R w once more, instead of writing 4 (which reads them first) and
/// reading 4.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "comm/collectives.hpp"
#include "device/device.hpp"
#include "optimizer/sharded_state.hpp"

namespace shardmix::optimizer {

class Reducer {
 public:
  Reducer(comm::Collectives& collectives, device::Device& device, const Parameters& parameters,
          ShardedState& state, const OptimizerOptions& options);
  /// Collective, but while an exception ends this rank.
  ~Reducer();
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  /// One of the names of parameter `i` is complete in this micro-batch.
  void mark_ready(std::size_t parameter);

  /// What the update of a bucket's slice reads as its gradient: the fp32 sum, or the ranks' own
  /// gradients.
  void set_gradient(std::size_t bucket, device::UpdateArrays& arrays);
  /// The step is decided and its updates are queued: ranks may write their gradients again.
  void release();

  /// Reduces what is left of this micro-batch and makes the next one begin. `last`: of the step.
  void finish_micro_batch(bool last);

  /// Micro-batches in the sum, after the last was finished.
  [[nodiscard]] std::int64_t micro_batches() const noexcept { return micro_batches_; }

  /// Queues the decision about the step for the updates that follow. `mean` makes the sum of
  /// gradients their mean. Collective.
  void decide(double mean, double clip_norm);
  /// What the updates read.
  [[nodiscard]] const device::UpdateControl* control() const {
    return control_.as<device::UpdateControl>();
  }
  /// Waits for the decision; the same on every rank.
  [[nodiscard]] device::UpdateControl outcome();

  /// Where the sum is first not usable, in a sentence. Collective; the same on every rank.
  /// Before release().
  [[nodiscard]] std::string describe_unusable();

 private:
  struct UnderWay {
    std::size_t bucket;
    std::unique_ptr<comm::Reduction> reduction;
    std::int64_t number;  ///< in the order of all reductions
  };
  struct Reduced {
    std::size_t bucket;
    std::int64_t number;
  };
  void begin_micro_batch();
  void begin_next();
  void finish_oldest();
  /// Begins and finishes what can be without waiting.
  void advance();
  /// Adds the partial sums of levels [begin, end) to the sum of `sources`; the result is level
  /// `begin`.
  void add(std::size_t bucket, const comm::Contributions& sources, std::size_t begin,
           std::size_t end);
  void run(std::size_t bucket, const device::ReduceTask& task);
  void zero_squares();
  void store_held();
  /// Of a bucket; that of all for the number behind the last.
  [[nodiscard]] device::SquareSum* squares(std::size_t bucket) const {
    return squares_.as<device::SquareSum>() + bucket;
  }
  /// Gives the memory of reduced buckets back, as far as all ranks are done with them.
  void discard_read();
  void join_partials();

  comm::Collectives& collectives_;
  device::Device& device_;
  const Parameters& parameters_;
  ShardedState& state_;
  std::vector<std::int64_t> names_left_;       ///< of each parameter, to be marked ready
  std::vector<std::int64_t> parameters_left_;  ///< of each bucket
  std::size_t next_ = 0;                       ///< buckets below this one have not begun
  std::deque<UnderWay> under_way_;
  std::size_t most_under_way_;
  /// The step's gradients are read where they are, once for the norm and once for the update.
  bool reads_twice_;
  bool keeps_gradients_;
  std::deque<Reduced> reduced_;                         ///< whose memory is to be given back
  std::vector<std::unique_ptr<comm::Reduction>> held_;  ///< of each bucket, until its update
  std::int64_t micro_batches_ = 0;
  bool step_begun_ = false;
  device::Buffer squares_;  ///< a SquareSum of each bucket's slice, and that of all at the end
  device::Buffer control_;  ///< an UpdateControl
  device::Buffer outcome_;  ///< its copy on the host
};

}  // namespace shardmix::optimizer
