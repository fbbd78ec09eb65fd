#include "train/resume.hpp"

#include <fmt/format.h>

#include <string>

#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"

namespace shardmix::train {
namespace {

/// Nothing where the directory has no checkpoint that anyone could go on from.
std::optional<std::int64_t> newest_step(const std::filesystem::path& directory) {
  try {
    return inspect_checkpoint(directory).clocks.step;
  } catch (const CheckpointError&) {
    return std::nullopt;
  }
}

/// A run that starts (or goes back) among later checkpoints would mix with them: after a crash the
/// newest of them all would be taken up, whichever run wrote it.
void require_nothing_newer(const TrainOptions& options, std::int64_t step) {
  const auto newest = newest_step(options.out);
  if (newest.value_or(0) <= step) return;
  throw ConfigError(fmt::format(
      "{} (--out) holds a checkpoint of step {}, and this run would go on there from step {}: "
      "leave --resume out to go on from the newest, or choose another --out",
      options.out.string(), *newest, step));
}

std::int64_t load(const TrainOptions& options, Checkpoints& checkpoints,
                  ShardedOptimizer& optimizer) {
  if (options.resume == "none") return 0;
  const SwitchOptions switching{.m2 = options.rule.switch_m2};
  if (options.resume == "auto") return checkpoints.resume(optimizer, switching);
  return checkpoints.load(options.resume, optimizer, switching);
}

}  // namespace

Resumed resume(Runtime& runtime, const TrainOptions& options, Checkpoints& checkpoints,
               ShardedOptimizer& optimizer) {
  Resumed resumed{.step = load(options, checkpoints, optimizer), .stored = std::nullopt};
  if (options.resume != "auto") {
    comm::agreed(runtime.impl().collectives(), [&] {
      if (runtime.is_root()) require_nothing_newer(options, resumed.step);
    });
  }
  if (resumed.step > 0) resumed.stored = trainer_state_from_json(checkpoints.trainer_state());
  return resumed;
}

}  // namespace shardmix::train
