#pragma once

/// The sharded optimizer: it owns the parameters, the gradients and the optimizer's state.
///
/// Every rank holds all parameters and all gradients in one flat buffer each, and its share (shard)
/// of the master weights, m1, m2 and v. A trainer writes gradients into gradient(name), calls
/// step(), and reads the new weights in parameter(name); these views stay where they are for the
/// optimizer's life.
///
/// All functions but the views and the const ones are collective, the destructor too: every rank
/// calls them, in the same order.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shardmix/parameters.hpp"
#include "shardmix/rules.hpp"
#include "shardmix/runtime.hpp"
#include "shardmix/switch.hpp"

namespace shardmix {

/// How the fp32 master weights of a 16-bit parameter are kept. The first two give the same bits.
enum class Master : std::uint8_t {
  /// The bf16 parameter's 16 bits and 16 more are the fp32 weight: 2 bytes an element. fp16
  /// parameters, whose range is smaller, have a full copy instead.
  remainder,
  full,  ///< a full fp32 copy beside the parameter: 4 bytes an element
  none,  ///< no master: the parameter is the weight, and each update is rounded stochastically
};

/// How m1, m2 and v are stored.
enum class StateFormat : std::uint8_t {
  full,  ///< fp32, 4 bytes an element each
  /// 4 bytes an element for m1, m2 and v together, 2 without m2, 1 for m1 alone, and 12 for each
  /// block of 256: m1 and v in 8 bits, m2 in 16, rounded stochastically. docs/precision.md has the
  /// codes, and what they cost in quality.
  compact,
};

/// The factor on the loss of fp16 training, by which small gradients stay above fp16's smallest
/// numbers. The trainer multiplies its loss by ShardedOptimizer::loss_scale(); the optimizer
/// divides it out again.
struct LossScaling {
  double initial = 1.0;  ///< at least 1
  /// Dynamic: doubled after this many updates without a non-finite gradient, and halved with each
  /// skipped step, down to 1. 0: stays at `initial`.
  std::int64_t growth_interval = 0;

  bool operator==(const LossScaling&) const = default;
};

/// The settings usual for fp16 (Micikevicius et al.: "Mixed Precision Training", arXiv 1710.03740).
inline constexpr LossScaling dynamic_loss_scaling{.initial = 65536.0, .growth_interval = 2000};

struct OptimizerOptions {
  double clip_norm = 0.0;  ///< the global gradient norm is scaled down to this; 0: no clipping
  Master master = Master::remainder;
  StateFormat state = StateFormat::full;
  LossScaling loss_scaling = {};
  std::uint64_t seed = 0;  ///< of stochastic rounding
  /// Most elements of a bucket, a multiple of 256. Large enough to fill a link, small enough to
  /// overlap. 0: as default_bucket_elements() says.
  std::int64_t bucket_elements = 0;
  /// Micro-batches of a step, to allocate room for their partial sums: their sum is a fixed binary
  /// tree. More of them only take that memory when they come. 1 and 2 need none.
  std::int64_t micro_batches = 1;
  /// True: no rank keeps the whole gradient (ZeRO's second stage). A bucket's memory is given back
  /// as soon as the bucket was reduced, and reads as zeros from then on; mark_ready() waits where
  /// `most_gradient_buckets` of them await their reduction. On hosts alone.
  bool shard_gradients = false;
  /// False: step() returns when all new parameters are there. True: they may still be on their way,
  /// and wait(name) must come before a parameter is read.
  bool overlap = false;
};

/// Elements of a bucket. On a GPU each costs some launches, which small ones don't repay; and a
/// rank alone has no link to keep busy.
[[nodiscard]] constexpr std::int64_t default_bucket_elements(DeviceKind device,
                                                             int ranks) noexcept {
  if (device == DeviceKind::host) return 4'194'304;
  return ranks == 1 ? 67'108'864 : 33'554'432;
}

/// Of a gradient that is sharded, the most buckets that a rank holds while a backward pass goes
/// from the last parameter to the first and marks each.
inline constexpr std::int64_t most_gradient_buckets = 6;

/// A view into one of the optimizer's buffers: `elements` contiguous values in row-major order.
struct TensorView {
  void* data = nullptr;
  std::vector<std::int64_t> shape = {};
  DType dtype = DType::fp32;
  std::int64_t elements = 0;

  /// The values as T, which must have the dtype's size (float for fp32, std::uint16_t for bf16 and
  /// fp16). Throws ConfigError otherwise.
  template <class T>
  [[nodiscard]] std::span<T> as() const {
    require_size(sizeof(T));
    return {static_cast<T*>(data), static_cast<std::size_t>(elements)};
  }

 private:
  void require_size(std::size_t bytes) const;
};

/// What a step did. The same on every rank.
struct StepReport {
  std::int64_t step = 0;  ///< of this step, from 1; skipped ones count
  double lr = 0.0;
  double alpha = 0.0;  ///< 0 for rules other than AdEMAMix
  double beta3 = 0.0;  ///< 0 for rules other than AdEMAMix
  /// L2 over all trainable parameters, of the mean gradient without loss scale and before clipping;
  /// infinity if skipped.
  double gradient_norm = 0.0;
  double clip_scale = 1.0;  ///< factor applied to the gradient, <= 1
  double loss_scale = 1.0;  ///< that this step's gradients were multiplied by
  bool skipped = false;     ///< true: parameters and state are as they were before the step
  std::string reason = {};  ///< why it was skipped: which parameter, element and rank
};

/// Bytes that this rank holds.
struct MemoryReport {
  std::int64_t parameter = 0;
  std::int64_t gradient = 0;
  std::int64_t reduced_gradient = 0;  ///< the fp32 sum of all ranks' gradients, of the shard alone
  std::int64_t master = 0;
  std::int64_t m1 = 0;
  std::int64_t m2 = 0;
  std::int64_t v = 0;

  [[nodiscard]] std::int64_t total() const noexcept {
    return parameter + gradient + reduced_gradient + master + m1 + m2 + v;
  }
  bool operator==(const MemoryReport&) const = default;
};

/// What rank `rank` of `size` would hold, without allocating it. Pure arithmetic.
[[nodiscard]] MemoryReport plan_memory(const Parameters& parameters, const Rule& rule, int rank,
                                       int size, const OptimizerOptions& options = {});

/// Where a run stands.
struct Clocks {
  std::int64_t step = 0;  ///< calls of step(), the skipped ones included: the lr schedule's clock
  std::int64_t updates = 0;  ///< steps that were applied: the clock of the bias corrections
  /// Updates since m2 began: the clock of the alpha and beta3 schedules. 0 without m2.
  std::int64_t slow_step = 0;

  bool operator==(const Clocks&) const = default;
};

class ShardedOptimizer {
 public:
  /// Allocates everything. Throws ConfigError for bad options or where the ranks disagree about the
  /// parameters, DeviceError where memory is lacking (several GPUs keep what they gave till then).
  /// `runtime` must outlive the optimizer. Rank 0 logs a warning where the rule's beta3 doesn't
  /// suit the steps of its lr schedule; see beta3_advice().
  ShardedOptimizer(Runtime& runtime, Parameters parameters, Rule rule,
                   const OptimizerOptions& options = {});
  ~ShardedOptimizer();
  ShardedOptimizer(ShardedOptimizer&&) noexcept;
  ShardedOptimizer& operator=(ShardedOptimizer&&) = delete;

  /// The parameter's values. Throws ConfigError for an unknown name.
  [[nodiscard]] TensorView parameter(std::string_view name);
  /// Where the backward pass writes (or adds) this rank's gradient; zero at first. A frozen
  /// parameter has none (ConfigError). The step's gradient is the mean over ranks and
  /// micro-batches.
  [[nodiscard]] TensorView gradient(std::string_view name);

  /// Copies a view's values to or from the host, wherever the view lies, in the view's dtype.
  /// Waits for what the trainer and the optimizer have queued before. Local.
  void read(const TensorView& view, void* to) const;
  void write(const TensorView& view, const void* from);

  /// Makes rank `root`'s parameters everyone's and starts the master weights from them. Call it
  /// once after the initial values are written; loading a checkpoint replaces it.
  void broadcast_parameters(int root = 0);

  /// Says that this micro-batch's gradient of `name` is complete, so that its reduction may start.
  /// Optional: step() and accumulate() reduce what wasn't marked. The order of calls may differ
  /// between ranks.
  void mark_ready(std::string_view name);

  /// Ends a micro-batch that is not the step's last: adds its gradients to the shard's fp32 sum and
  /// sets the gradient buffer to zero.
  void accumulate();

  /// Ends the step's last micro-batch: reduces, clips, updates, gathers. A non-finite gradient on
  /// any rank skips the step on all, and the report says which parameter was the first.
  StepReport step();

  /// Sets the gradient buffer to zero, for backward passes that add to it. Local.
  void zero_gradients();

  /// Waits until the parameter, or all of them, hold the last step's result. Needed with `overlap`
  /// alone.
  void wait(std::string_view name);
  void wait();

  /// What the trainer multiplies its next loss by: see LossScaling.
  [[nodiscard]] double loss_scale() const noexcept;

  /// Goes on with another rule from the next step. States that both rules keep stay as they are,
  /// those that the new one hasn't are dropped. An m2 that the old rule didn't keep (or as a sum,
  /// where the new one keeps an average) starts as `options` say, and the slow step at 0. Warns as
  /// the constructor does. Throws ConfigError if the new rule needs an m1 or v that was never kept,
  /// or if m2 can't start so.
  SwitchReport switch_rule(Rule rule, const SwitchOptions& options = {});

  [[nodiscard]] const Parameters& parameters() const noexcept;
  [[nodiscard]] const Rule& rule() const noexcept;
  [[nodiscard]] const OptimizerOptions& options() const noexcept;
  [[nodiscard]] const Clocks& clocks() const noexcept;
  /// What is allocated on this rank.
  [[nodiscard]] MemoryReport memory() const noexcept;

  struct Impl;
  [[nodiscard]] Impl& impl() const noexcept { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardmix
