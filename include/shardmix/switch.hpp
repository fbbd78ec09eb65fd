#pragma once

/// From one update rule to another in the middle of a run: how m2 starts, and what became of the
/// state.

#include <cstdint>
#include <string>
#include <vector>

namespace shardmix {

/// How m2 starts where a rule takes over that keeps one, and none of its kind is there.
enum class M2Start : std::uint8_t {
  zero,  ///< as the paper's switch does
  /// At the bias-corrected m1, m1 / (1 - beta1^t) with the new rule's beta1: m2 is used without a
  /// correction, so it takes over what the next step would read m1 as. It is as noisy as m1, and
  /// beta3 decides how long that noise stays: right where beta3 grows from beta1 by its schedule,
  /// harmful where it is large at once (docs/switching.md). For rules that both keep m1; a sum of
  /// gradients starts at zero.
  from_m1,
};

struct SwitchOptions {
  M2Start m2 = M2Start::zero;
};

/// What a switch did. States are "master", "m1", "m2" and "v"; the same on every rank.
struct SwitchReport {
  std::string from = {};  ///< the rules' names
  std::string to = {};
  std::int64_t step = 0;                  ///< steps done; this clock and the updates go on
  std::vector<std::string> kept = {};     ///< as they were
  std::vector<std::string> started = {};  ///< at zero, but for m2 where `m2` says otherwise
  std::vector<std::string> dropped = {};
  M2Start m2 = M2Start::zero;
  /// Where the schedules of alpha and beta3 stand: 0 where m2 starts, and where there is none.
  std::int64_t slow_step = 0;

  bool operator==(const SwitchReport&) const = default;
};

/// "switched from adamw to ademamix at step 6: master, m1, v and the step are kept; m2 starts at
/// zero, and the slow step at 0".
[[nodiscard]] std::string describe(const SwitchReport& report);

}  // namespace shardmix
