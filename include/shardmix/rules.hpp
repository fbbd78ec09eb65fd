#pragma once

/// The update rules and their hyper-parameters, in the notation of the AdEMAMix paper
/// (Pagliardini, Ablin, Grangier: "The AdEMAMix Optimizer: Better, Faster, Older", arXiv
/// 2409.03137).
///
/// With gradient g, step t >= 1 and slow step s >= 1, AdEMAMix is
///
///     m1 = beta1 m1 + (1 - beta1) g
///     m2 = beta3(s) m2 + (1 - beta3(s)) g
///     v  = beta2 v + (1 - beta2) g^2
///     theta -= lr ((m1 / (1 - beta1^t) + alpha(s) m2) / (sqrt(v / (1 - beta2^t)) + eps) +
///     weight_decay theta)
///
/// and AdamW is the same without m2. The step t counts the updates since the start, the slow step s
/// those since m2 began: they differ after a switch from AdamW.
///
/// Hyper-parameters of a group of parameters may differ from the rule's: see Group.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "shardmix/parameters.hpp"
#include "shardmix/schedule.hpp"

namespace shardmix {

/// Decoupled weight decay, multiplied by lr (Loshchilov and Hutter, arXiv 1711.05101).
struct AdamW {
  Schedule lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;  ///< outside of the root
  double weight_decay = 0.1;

  bool operator==(const AdamW&) const = default;
};

/// The paper's language-model settings are the defaults.
struct AdEMAMix {
  Schedule lr = 1e-3;
  double beta1 = 0.9;  ///< 0: m1 is the gradient itself and is not stored (full state: as much
                       ///< memory as AdamW)
  double beta2 = 0.999;
  double beta3 = 0.9999;  ///< for long runs; auto_beta3() gives the value for a run's length
  double alpha = 8.0;
  double eps = 1e-8;
  double weight_decay = 0.1;

  /// T_alpha: alpha grows linearly from 0 over this many slow steps. 0: no schedule. Unset: the
  /// steps of the lr schedule, as in the paper.
  std::optional<std::int64_t> alpha_steps = std::nullopt;
  /// T_beta3: beta3 grows from beta1, linear in half-life, over this many slow steps; as above.
  std::optional<std::int64_t> beta3_steps = std::nullopt;

  /// alpha(s), s >= 1.
  [[nodiscard]] double alpha_at(std::int64_t slow_step) const noexcept;
  /// beta3(s), s >= 1 (the paper's appendix A.1). For beta1 = 0 its limit: beta3^(T/s).
  [[nodiscard]] double beta3_at(std::int64_t slow_step) const noexcept;

  bool operator==(const AdEMAMix&) const = default;
};

/// Simplified-AdEMAMix (Morwani, Vyas, Zhang, Kakade: "Connections between Schedule-Free
/// Optimizers, AdEMAMix, and Accelerated SGD Variants", arXiv 2502.02431): one slow momentum, a sum
/// and not an average, and the gradient itself in place of the fast average. In the memory of
/// AdamW.
///
///     m = beta1(s) m + g
///     v = beta2 v + (1 - beta2) g^2
///     theta -= lr ((m + alpha g) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay theta)
///
/// A sum grows with 1 / (1 - beta1): the lr that suits it is AdamW's times about (1 - beta1).
struct SimplifiedAdEMAMix {
  Schedule lr = 1e-4;
  double beta1 = 0.99;
  double min_beta1 = 0.9;  ///< where the schedule of beta1 begins
  double beta2 = 0.95;
  double alpha = 0.0;  ///< weight of the gradient; the larger, the smaller the batch
  double eps = 1e-8;
  double weight_decay = 0.1;

  /// beta1 grows from min_beta1, linear in half-life, over this many slow steps. 0: no schedule.
  /// Unset: the steps of the lr schedule.
  std::optional<std::int64_t> beta1_steps = std::nullopt;

  /// beta1(s), s >= 1.
  [[nodiscard]] double beta1_at(std::int64_t slow_step) const noexcept;

  bool operator==(const SimplifiedAdEMAMix&) const = default;
};

/// Lion (Chen et al.: "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675): the sign
/// of an average, and m1 as its only state.
///
///     theta -= lr (sign(beta1 m1 + (1 - beta1) g) + weight_decay theta)
///     m1 = beta2 m1 + (1 - beta2) g
struct Lion {
  Schedule lr = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double weight_decay = 1.0;

  bool operator==(const Lion&) const = default;
};

using Rule = std::variant<AdEMAMix, AdamW, SimplifiedAdEMAMix, Lion>;

/// Which state arrays a rule keeps for each element, besides the master weights.
struct RuleStates {
  bool m1 = false;
  bool m2 = false;
  bool v = false;
  bool m2_is_sum = false;  ///< of gradients, not their average

  bool operator==(const RuleStates&) const = default;
};

/// "ademamix", "adamw", "simplified-ademamix" or "lion".
[[nodiscard]] std::string_view name_of(const Rule& rule) noexcept;
[[nodiscard]] RuleStates states_of(const Rule& rule) noexcept;
[[nodiscard]] const Schedule& lr_of(const Rule& rule) noexcept;

/// The rule of this name with its default hyper-parameters. Throws ConfigError for any other text.
[[nodiscard]] Rule rule_named(std::string_view name);

/// Each rule once, with its default hyper-parameters.
[[nodiscard]] std::vector<Rule> all_rules();

/// Throws ConfigError, naming the hyper-parameter, its range and its value, for one outside its
/// range.
void validate(const Rule& rule);

/// A beta3 for a run of `steps` >= 1, as in `AdEMAMix{.beta3 = auto_beta3(20'000)}`: its memory,
/// 1 / (1 - beta3) steps, is a fifth of the run, between beta1 and the paper's 0.9999. The fifth is
/// this library's choice: a memory longer than the run makes m2 a stale sum, and such runs often
/// diverge.
[[nodiscard]] double auto_beta3(std::int64_t steps, double beta1 = 0.9) noexcept;

/// A sentence that proposes auto_beta3() where the rule's beta3 remembers longer than a run of
/// `steps`; "" otherwise, for AdamW, and where `steps` is 0 (not known).
[[nodiscard]] std::string beta3_advice(const Rule& rule, std::int64_t steps);

/// The rule with the group's hyper-parameters in place of its own. Throws ConfigError for a name
/// that the rule hasn't, a value outside its range, or one that needs a state that `rule` doesn't
/// keep.
[[nodiscard]] Rule rule_for(const Rule& rule, const Group& group);

}  // namespace shardmix
