#include "optimizer/switch.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "comm/agree.hpp"
#include "device/host_arrays.hpp"
#include "math/update_rules.hpp"
#include "optimizer/optimizer_impl.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace optimizer {

void compare_states(SwitchReport& report, const RuleStates& before, const RuleStates& after) {
  report.kept = {"master"};
  const auto add = [&](const char* name, bool was, bool is, bool is_another) {
    if (was && is && !is_another) report.kept.emplace_back(name);
    if (is && (!was || is_another)) report.started.emplace_back(name);
    if (was && (!is || is_another)) report.dropped.emplace_back(name);
  };
  add("m1", before.m1, after.m1, false);
  add("m2", before.m2, after.m2, m2_begins(before, after));
  add("v", before.v, after.v, false);
}

void require_m2_start(const SwitchOptions& options, const RuleStates& before,
                      const RuleStates& after, std::string_view from, std::string_view to) {
  if (options.m2 == M2Start::zero || !m2_begins(before, after)) return;
  if (after.m2_is_sum) {
    throw ConfigError(fmt::format(
        "m2 can't start from m1: in {} it is a sum of gradients, m1 is an average; let it start "
        "at zero",
        to));
  }
  if (!before.m1 || !after.m1) {
    throw ConfigError(fmt::format("m2 can't start from m1: {} {} none; let it start at zero",
                                  before.m1 ? to : from,
                                  before.m1 ? "(with beta1 = 0) keeps" : "has kept"));
  }
}

}  // namespace optimizer

std::string describe(const SwitchReport& report) {
  std::string text =
      report.from == report.to
          ? fmt::format("{} goes on from step {}", report.to, report.step)
          : fmt::format("switched from {} to {} at step {}", report.from, report.to, report.step);
  text += fmt::format(": {} and the step are kept", fmt::join(report.kept, ", "));
  for (const std::string& state : report.started) {
    const bool from_m1 = state == "m2" && report.m2 == M2Start::from_m1;
    text += fmt::format("; {} starts {}", state, from_m1 ? "from m1" : "at zero");
    if (state == "m2") text += fmt::format(", and the slow step at {}", report.slow_step);
  }
  if (std::ranges::find(report.kept, "m2") != report.kept.end())
    text += fmt::format("; the slow step goes on from {}", report.slow_step);
  if (!report.dropped.empty())
    text += fmt::format("; dropped: {}", fmt::join(report.dropped, ", "));
  return text;
}

void ShardedOptimizer::Impl::start_m2_from_m1(const Rule& to) {
  if (clocks.updates == 0) return;  // m1 is zero, and its correction infinite
  std::vector<float> values(static_cast<std::size_t>(device::most_brought));
  for (std::size_t b = 0; b < state.shard().slices.size(); ++b) {
    const layout::Range slice = state.shard().slices[b].range;
    for (const layout::GroupRun& run : state.layout().group_runs(slice)) {
      const Rule own = rule_for(to, state.layout().groups()[run.group]);
      const float correction = math::bias_correction(std::get<AdEMAMix>(own).beta1, clocks.updates);
      const auto start = [&](std::int64_t begin, std::int64_t count) {
        const layout::Range range{begin, begin + count};
        state.read(optimizer::State::m1, b, range, values.data());
        for (std::int64_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] *= correction;
        state.write(optimizer::State::m2, b, range, values.data());
      };
      device::for_each_part(run.range.begin, run.range.size(), start);
    }
  }
}

SwitchReport ShardedOptimizer::switch_rule(Rule rule, const SwitchOptions& options) {
  Impl& o = *impl_;
  const RuleStates before = o.state.states();
  const RuleStates after = states_of(rule);
  comm::agreed(o.collectives, [&] {
    optimizer::validate_for(rule, o.parameters);
    if (o.clocks.updates > 0 && ((after.m1 && !before.m1) || (after.v && !before.v))) {
      throw ConfigError(fmt::format(
          "switch_rule: {} needs {}, which {} has not kept{}", name_of(rule),
          after.m1 && !before.m1 ? "m1" : "v", name_of(o.rule),
          after.m1 && !before.m1 ? "; beta1 = 0, where it is a choice, needs none" : ""));
    }
    optimizer::require_m2_start(options, before, after, name_of(o.rule), name_of(rule));
  });
  const bool m2_begins = optimizer::m2_begins(before, after);
  o.wait_all();
  o.await_readers();
  o.collectives.wait_for_device();
  optimizer::ShardedState::Moments moments;
  comm::agreed(o.collectives, [&] {
    if (after != before) moments = o.state.make_moments(after);
  });
  comm::agreed(o.collectives, [&] {
    o.state.set_states(after, std::move(moments));
    if (m2_begins && options.m2 == M2Start::from_m1) o.start_m2_from_m1(rule);
  });
  if (m2_begins || !after.m2) o.clocks.slow_step = 0;
  SwitchReport report{.from = std::string(name_of(o.rule)),
                      .to = std::string(name_of(rule)),
                      .step = o.clocks.step,
                      .m2 = m2_begins ? options.m2 : M2Start::zero,
                      .slow_step = o.clocks.slow_step};
  optimizer::compare_states(report, before, after);
  o.rule = std::move(rule);
  o.log_beta3_advice();
  return report;
}

}  // namespace shardmix
