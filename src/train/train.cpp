#include "train/train.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"
#include "train/stop_signals.hpp"
#include "train/training_run.hpp"

namespace shardmix::train {
namespace {

/// The options that decide which collective operations a rank takes part in, and with what.
std::string shared_options(const TrainOptions& o) {
  return fmt::format(
      "--steps {} --batch {} --micro-batch {} --seed {} --eval-every {} --eval-sequences {} "
      "--checkpoint-every {} --resume {} --context {}, rule {}, m2 from {}",
      o.steps, o.batch, o.micro_batch.value_or(-1), o.seed, o.eval_every, o.eval_sequences,
      o.checkpoint_every, o.resume, shape_of(o).context, describe_rules(o),
      o.rule.switch_m2 == M2Start::zero ? "zero" : "m1");
}

/// Collective. Ranks with different plans would wait for each other for ever.
void require_equal_options(comm::Collectives& collectives, const TrainOptions& options) {
  const auto all = collectives.all_gather(shared_options(options));
  const auto other =
      std::ranges::find_if_not(all, [&](const std::string& o) { return o == all[0]; });
  if (other == all.end()) return;
  throw ConfigError(
      fmt::format("rank {} was given other options than rank 0, which must not be: {}; rank 0: {}",
                  other - all.begin(), *other, all[0]));
}

}  // namespace

int train(Runtime& runtime, const TrainOptions& options) {
  comm::agreed(runtime.impl().collectives(), [&] { validate(options); });
  require_equal_options(runtime.impl().collectives(), options);
  const StopSignals signals;
  TrainingRun run(runtime, options);
  return run.run();
}

bool trainer_available() noexcept {
  return true;
}

}  // namespace shardmix::train
