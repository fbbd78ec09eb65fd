#pragma once

/// Everything that a training run is told. A plain struct: the command line only fills it.

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "shardmix/optimizer.hpp"
#include "shardmix/rules.hpp"
#include "shardmix/runtime.hpp"
#include "shardmix/switch.hpp"
#include "train/model_shape.hpp"

namespace shardmix::train {

/// The update rule and its hyper-parameters. What is unset is the preset's, or follows from the
/// rule, the model or the run's length; what the rule hasn't is of no effect.
struct RuleOptions {
  std::string name = "ademamix";
  std::string preset = {};  ///< of preset_named(), for AdEMAMix and AdamW; "": none
  /// The first so many steps are of `switch_from`; the schedules of alpha and beta3 count from
  /// there. 0: none are.
  std::int64_t switch_at = 0;
  std::string switch_from = "adamw";
  M2Start switch_m2 = M2Start::zero;  ///< there, and where --resume takes up another rule's run
  /// Unset: the model's, which is that of AdamW and AdEMAMix; a tenth of it for Lion, and
  /// (1 - beta1) times it for Simplified-AdEMAMix.
  std::optional<double> lr = {};
  std::optional<Schedule::Shape> lr_shape = {};  ///< unset: cosine
  std::optional<double> final_lr = {};           ///< unset: lr / 100, the paper's ratio
  std::optional<std::int64_t> warmup = {};       ///< unset: a tenth of the steps, 3000 at most
  std::optional<std::int64_t> decay = {};  ///< of wsd and wsd_sqrt; unset: a fifth of the steps
  std::optional<double> beta1 = {};        ///< unset: the rule's, as in all of these but
  std::optional<double> min_beta1 = {};
  std::optional<double> beta2 = {};
  std::optional<double> beta3 = {};  ///< auto_beta3() of the steps
  std::optional<double> alpha = {};  ///< the model's, of AdEMAMix
  std::optional<double> eps = {};
  std::optional<double> weight_decay = {};
  std::optional<std::int64_t> alpha_steps = {};  ///< unset: the run's steps; 0: no schedule
  std::optional<std::int64_t> beta1_steps = {};  ///< as alpha_steps
  std::optional<std::int64_t> beta3_steps = {};  ///< as alpha_steps
  std::optional<double> clip = {};               ///< unset: the model's; 0: no clipping

  bool operator==(const RuleOptions&) const = default;
};

struct TrainOptions {
  std::filesystem::path text;         ///< any file, read as bytes
  std::filesystem::path out = "run";  ///< the run's directory: checkpoints and metrics.jsonl
  std::string resume = "auto";        ///< "auto", "none" or a checkpoint's directory

  std::string model = "nano";  ///< a named size, from which these deviate:
  std::optional<std::int64_t> width;
  std::optional<std::int64_t> heads;
  std::optional<std::int64_t> layers;
  std::optional<std::int64_t> context;
  DType dtype = DType::fp32;          ///< fp16: on a GPU alone, with dynamic_loss_scaling
  Master master = Master::remainder;  ///< of 16-bit parameters
  StateFormat state = StateFormat::full;

  std::int64_t steps = 1000;
  std::int64_t batch = 32;  ///< sequences of a step over all ranks
  /// Most sequences that a rank computes at once; 0: its whole part; unset: a quarter of the batch,
  /// so that 1, 2 and 4 ranks add the same sums.
  std::optional<std::int64_t> micro_batch;
  std::uint64_t seed = 1;  ///< of initial values, the choice of sequences, stochastic rounding
  RuleOptions rule;

  DeviceKind device = DeviceKind::host;
  int threads = 0;  ///< of each rank; 0: its share of the node's cores
  bool shard_gradients = false;
  std::string collectives = "auto";  ///< see RuntimeOptions
  double deadline = 600.0;           ///< seconds

  std::int64_t eval_every = 100;        ///< steps between held-out losses; 0: at the end alone
  std::int64_t eval_sequences = 64;     ///< of a held-out loss, over all ranks; 0: none at all
  std::int64_t checkpoint_every = 500;  ///< steps between checkpoints; 0: at the end alone
  bool save_in_background = false;      ///< training goes on while a copy is written
  int keep_last = 3;                    ///< checkpoints that stay; 0: all
  std::int64_t keep_every = 0;          ///< those of every so many steps stay too; 0: none
  int ranks_per_file = 1;               ///< that share a file of a checkpoint
  std::int64_t log_every = 10;          ///< steps between lines where standard error is no terminal

  bool operator==(const TrainOptions&) const = default;
};

/// How weights and state may be kept, by name.
inline constexpr std::array masters{
    std::pair{std::string_view("remainder"), Master::remainder},
    std::pair{std::string_view("full"), Master::full},
    std::pair{std::string_view("none"), Master::none},
};
inline constexpr std::array state_formats{
    std::pair{std::string_view("full"), StateFormat::full},
    std::pair{std::string_view("compact"), StateFormat::compact},
};

/// Throws ConfigError, a sentence that names the option, for a value that makes no sense. Pure:
/// looks at no file and no device.
void validate(const TrainOptions& options);

/// The named size with the options' deviations.
[[nodiscard]] ModelShape shape_of(const TrainOptions& options);

/// The update rule with everything filled in; with a switch, that of the steps after it.
[[nodiscard]] Rule rule_of(const TrainOptions& options);
/// That of the steps before the switch.
[[nodiscard]] Rule rule_before_switch(const TrainOptions& options);
/// The one of the two that keeps all states of the other: a run is made with it, and loads into it
/// whichever wrote the checkpoint. Without a switch it is rule_of().
[[nodiscard]] Rule widest_rule(const TrainOptions& options);
/// Whether `many` has all that `few` has.
[[nodiscard]] bool covers(const RuleStates& many, const RuleStates& few) noexcept;

/// The gradient norm to clip at, filled in.
[[nodiscard]] double clip_of(const TrainOptions& options);

/// The rule and all its hyper-parameters, in one line.
[[nodiscard]] std::string describe(const Rule& rule);
/// Of the whole run: with a switch, both.
[[nodiscard]] std::string describe_rules(const TrainOptions& options);

/// "bf16, master remainder, state full".
[[nodiscard]] std::string describe_precision(const TrainOptions& options);

}  // namespace shardmix::train
