#include "train/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "shardmix/error.hpp"

namespace shardmix::train {
namespace {

void require_at_least(std::int64_t least, std::string_view option, std::int64_t found) {
  if (found < least) {
    throw ConfigError(fmt::format("{} must be at least {}, but is {}", option, least, found));
  }
}

void require_whole_run(const TrainOptions& options) {
  require_at_least(1, "--steps", options.steps);
  require_at_least(1, "--batch", options.batch);
  if (options.batch > std::numeric_limits<std::uint32_t>::max()) {
    throw ConfigError(fmt::format("--batch must be below 2^32, but is {}", options.batch));
  }
  require_at_least(0, "--micro-batch", options.micro_batch.value_or(0));
  require_at_least(0, "--threads", options.threads);
  require_at_least(0, "--eval-every", options.eval_every);
  require_at_least(0, "--eval-sequences", options.eval_sequences);
  require_at_least(0, "--checkpoint-every", options.checkpoint_every);
  require_at_least(0, "--keep-last", options.keep_last);
  require_at_least(0, "--keep-every", options.keep_every);
  require_at_least(1, "--ranks-per-file", options.ranks_per_file);
  require_at_least(1, "--log-every", options.log_every);
}

void require_switch(const TrainOptions& options) {
  const RuleOptions& rule = options.rule;
  if (rule.switch_at == 0) return;
  if (rule.switch_at < 0 || rule.switch_at >= options.steps) {
    throw ConfigError(
        fmt::format("--switch-at must be below the {} of --steps, or 0 for no switch, but is {}",
                    options.steps, rule.switch_at));
  }
  if (rule.switch_from == rule.name) {
    throw ConfigError(fmt::format(
        "--switch-at {} asks for a switch from {} to itself: choose another --optimizer or "
        "--switch-from",
        rule.switch_at, rule.name));
  }
  shardmix::validate(rule_before_switch(options));
  // What would otherwise fail at the switch, or where the run is resumed on its other side.
  const RuleStates before = states_of(rule_before_switch(options));
  const RuleStates after = states_of(rule_of(options));
  if ((after.m1 && !before.m1) || (after.v && !before.v)) {
    throw ConfigError(fmt::format("--switch-at: {} needs {}, which {} doesn't keep", rule.name,
                                  after.m1 && !before.m1 ? "m1" : "v", rule.switch_from));
  }
  if (!covers(before, after) && !covers(after, before)) {
    throw ConfigError(fmt::format(
        "--switch-at: {} and {} each keep a state that the other doesn't; let the first run end at "
        "step {}, and go on from it with --resume and another --out",
        rule.switch_from, rule.name, rule.switch_at));
  }
}

void require_rule(const TrainOptions& options) {
  const RuleOptions& rule = options.rule;
  require_at_least(0, "--warmup", rule.warmup.value_or(0));
  require_at_least(1, "--decay", rule.decay.value_or(1));
  if (rule.lr && *rule.lr == 0.0) {
    throw ConfigError("--lr is 0, with which nothing would be learned; it must be above 0");
  }
  const double clip = clip_of(options);
  if (!std::isfinite(clip) || clip < 0.0) {
    throw ConfigError(
        fmt::format("--clip must be at least 0 (0: no clipping) and finite, but is {}", clip));
  }
  if (!(std::isfinite(options.deadline) && options.deadline > 0.0)) {
    throw ConfigError(
        fmt::format("--deadline must be above 0 seconds, but is {}", options.deadline));
  }
  require_switch(options);
  shardmix::validate(rule_of(options));
}

void require_dtype(const TrainOptions& options) {
  if (options.dtype == fp16 && options.device == DeviceKind::host) {
    throw ConfigError(
        "--dtype fp16 needs --device cuda: LibTorch computes fp16 on a GPU alone; on the host use "
        "--dtype bf16");
  }
}

template <class Names, class Value>
std::string_view name_in(const Names& names, Value value) {
  return std::ranges::find(names, value, &Names::value_type::second)->first;
}

}  // namespace

void validate(const TrainOptions& options) {
  if (options.text.empty()) {
    throw ConfigError("no text to train on: give any text file with --text FILE");
  }
  if (options.out.empty()) throw ConfigError("--out is empty, but must name the run's directory");
  if (options.resume.empty()) {
    throw ConfigError("--resume is empty, but must be auto, none or a checkpoint's directory");
  }
  require_whole_run(options);
  validate(shape_of(options));
  require_rule(options);
  require_dtype(options);
}

ModelShape shape_of(const TrainOptions& options) {
  ModelShape shape = model_named(options.model).shape;
  shape.width = options.width.value_or(shape.width);
  shape.heads = options.heads.value_or(shape.heads);
  shape.layers = options.layers.value_or(shape.layers);
  shape.context = options.context.value_or(shape.context);
  return shape;
}

std::string describe_precision(const TrainOptions& options) {
  const std::string state = fmt::format("state {}", name_in(state_formats, options.state));
  if (options.dtype == fp32) return fmt::format("fp32, {}", state);
  const bool has_remainder = options.dtype == bf16;
  const Master master =
      options.master == Master::remainder && !has_remainder ? Master::full : options.master;
  return fmt::format("{}, master {}, {}", name_of(options.dtype), name_in(masters, master), state);
}

}  // namespace shardmix::train
