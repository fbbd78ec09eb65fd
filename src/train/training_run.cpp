#include "train/training_run.hpp"

#include <fmt/format.h>

#include <array>
#include <string>
#include <system_error>

#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"
#include "train/format.hpp"
#include "train/memory_table.hpp"
#include "train/stop_signals.hpp"
#include "train/train.hpp"

namespace shardmix::train {
namespace {

/// The ranks' collectives, once the run's directory is there: better now than at the first
/// checkpoint.
comm::Collectives& with_directory(const Runtime& runtime, const std::filesystem::path& directory) {
  comm::Collectives& collectives = runtime.impl().collectives();
  comm::agreed(collectives, [&] {
    if (!runtime.is_root()) return;
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (error) {
      throw ConfigError(fmt::format("the run's directory {} (--out) can't be made: {}",
                                    directory.string(), error.message()));
    }
  });
  return collectives;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TrainingRun::TrainingRun(Runtime& runtime, const TrainOptions& options)
    : runtime_(runtime),
      options_(options),
      collectives_(with_directory(runtime, options.out)),
      shape_(shape_of(options)),
      plan_(plan_batch(options.batch, options.micro_batch, runtime.rank(), runtime.size())),
      data_(collectives_, options),
      optimizer_(runtime, declare_parameters(shape_, options.dtype), widest_rule(options),
                 {.clip_norm = clip_of(options),
                  .master = options.master,
                  .state = options.state,
                  .loss_scaling = options.dtype == fp16 ? dynamic_loss_scaling : LossScaling{},
                  .seed = options.seed,
                  .micro_batches = plan_.micro_batches,
                  .shard_gradients = options.shard_gradients}),
      model_(shape_, optimizer_, options.device, runtime.threads()),
      checkpoints_(runtime, options.out,
                   {.keep_last = options.keep_last,
                    .keep_every = options.keep_every,
                    .ranks_per_file = options.ranks_per_file}),
      state_{.seed = options.seed,
             .batch = options.batch,
             .shape = shape_,
             .text_bytes = data_.bytes(),
             .text_hash = data_.hash(),
             .tokens = 0,
             .rule = describe_rules(options),
             .precision = describe_precision(options)} {
  describe_run();
  take_up();
  open_outputs();
}

void TrainingRun::describe_run() const {
  const Parameters& parameters = optimizer_.parameters();
  runtime_.log("model {}: width {}, {} heads, {} layers, context {}; {} parameters in {}",
               options_.model, shape_.width, shape_.heads, shape_.layers, shape_.context,
               format_count(static_cast<double>(parameters.elements())), state_.precision);
  runtime_.log("text {}: {} to train on, {} held out", options_.text.string(),
               format_bytes(data_.split().training), format_bytes(data_.split().held_out));
  runtime_.log("ranks {}, each {}; {} sequences a step in {} micro-batch(es) a rank",
               runtime_.size(), runtime_.device_description(), options_.batch, plan_.micro_batches);
  runtime_.log("collectives {}", runtime_.collectives_description());
  runtime_.log("rule {}, clip {:g}", state_.rule, optimizer_.options().clip_norm);
  const auto memory = gather_memory(collectives_, optimizer_.memory());
  runtime_.log("{}", memory_table(memory));
}

void TrainingRun::take_up() {
  const Resumed resumed = resume(runtime_, options_, checkpoints_, optimizer_);
  step_ = saved_step_ = resumed.step;
  switches_ = step_ < options_.rule.switch_at;
  const std::string made_as(name_of(optimizer_.rule()));
  const Rule rule = switches_ ? rule_before_switch(options_) : rule_of(options_);
  std::optional<SwitchReport> then;
  if (rule != optimizer_.rule()) then = optimizer_.switch_rule(rule);
  if (step_ == 0) {
    if (runtime_.is_root()) model_.write_initial_values(options_.seed);
    optimizer_.broadcast_parameters();
    return;
  }
  runtime_.log("resumed after step {}", step_);
  const std::optional<SwitchReport>& loaded = checkpoints_.load_switch();
  const std::string stored_rule = loaded ? loaded->from : made_as;
  if (switches_ && stored_rule == options_.rule.name) {
    runtime_.log("warning: the checkpoint is of {} already, but --switch-at is {}: until then {}",
                 options_.rule.name, options_.rule.switch_at, options_.rule.switch_from);
  }
  // There and back again is no switch.
  if (stored_rule != name_of(rule) || !then) {
    for (const auto& report : {loaded, then}) {
      if (report) runtime_.log("{}", describe(*report));
    }
  }
  if (!resumed.stored) {
    runtime_.log(
        "warning: the checkpoint is of another trainer: its text, seed and batch are unknown");
    return;
  }
  state_.tokens = resumed.stored->tokens;
  for (const std::string& difference : differences(*resumed.stored, state_)) {
    runtime_.log("warning: {}", difference);
  }
}

void TrainingRun::open_outputs() {
  comm::agreed(collectives_, [&] {
    if (!runtime_.is_root()) return;
    metrics_ = std::make_unique<MetricsFile>(options_.out / "metrics.jsonl", step_);
    progress_ = std::make_unique<Progress>(step_ + 1, options_.steps, options_.log_every);
  });
}

int TrainingRun::run() {
  if (step_ >= options_.steps) {
    runtime_.log("nothing to do: {} of --steps {} are done", step_, options_.steps);
    return 0;
  }
  while (step_ < options_.steps) {
    if (switches_ && step_ == options_.rule.switch_at) switch_rule();
    StepResult result = do_step();
    if (is_due(options_.eval_every)) result.metrics.held_out_loss = held_out_loss();
    report(result.metrics);
    look_after_save(false);
    if (result.stop && step_ < options_.steps) return stop_early();
    if (options_.checkpoint_every > 0 && step_ % options_.checkpoint_every == 0) try_to_save();
  }
  save();
  return 0;
}

void TrainingRun::switch_rule() {
  const SwitchReport report =
      optimizer_.switch_rule(rule_of(options_), {.m2 = options_.rule.switch_m2});
  switches_ = false;
  if (runtime_.is_root()) progress_->interrupt();
  runtime_.log("{}", describe(report));
}

bool TrainingRun::is_due(std::int64_t every) const noexcept {
  return step_ == options_.steps || (every > 0 && step_ % every == 0);
}

LossSum TrainingRun::backward_all(std::int64_t step) {
  const double scale = plan_.loss_weight * optimizer_.loss_scale();
  LossSum losses;
  optimizer_.zero_gradients();
  for (std::int64_t i = 0; i < plan_.micro_batches; ++i) {
    if (i > 0) optimizer_.accumulate();
    losses.add(model_.backward(data_.training(step, plan_.micro_batch(i)), scale));
  }
  return losses;
}

TrainingRun::StepResult TrainingRun::do_step() {
  const auto start = std::chrono::steady_clock::now();
  const LossSum losses = backward_all(step_ + 1);
  StepResult result;
  result.metrics.report = optimizer_.step();
  step_ = result.metrics.report.step;
  // The losses and the wish to stop travel together: one small collective a step.
  std::int64_t stops = StopSignals::received() != 0 ? 1 : 0;
  const double loss = losses.reduce(collectives_, stops);
  const std::int64_t tokens = options_.batch * shape_.context;
  state_.tokens += tokens;
  result.metrics.loss = loss / static_cast<double>(options_.batch);
  result.metrics.tokens_per_second = static_cast<double>(tokens) / seconds_since(start);
  result.stop = stops > 0;
  return result;
}

std::optional<double> TrainingRun::held_out_loss() {
  const std::int64_t sequences = data_.held_out_sequences();
  if (sequences == 0) return std::nullopt;
  const SequenceRange local = part_of(sequences, runtime_.rank(), runtime_.size());
  LossSum losses;
  // One sequence at a time: the sum's order, and the memory, are the same on any number of ranks.
  for (std::int64_t i = local.begin; i < local.end; ++i) {
    losses.add(model_.loss(data_.held_out({.begin = i, .end = i + 1})));
  }
  std::int64_t none = 0;
  return losses.reduce(collectives_, none) / static_cast<double>(sequences);
}

void TrainingRun::report(const StepMetrics& metrics) {
  if (!runtime_.is_root()) return;
  progress_->show(metrics);
  const auto say = [&](const std::string& line) {
    progress_->interrupt();
    runtime_.log("{}", line);
  };
  const std::int64_t step = metrics.report.step;
  if (metrics.report.skipped) {
    const double scale = optimizer_.loss_scale();
    const std::string note = scale == metrics.report.loss_scale
                                 ? std::string()
                                 : fmt::format("; the loss scale is now {:g}", scale);
    say(fmt::format("step {}: {}{}", step, metrics.report.reason, note));
  }
  if (metrics.held_out_loss) {
    say(fmt::format("step {}: held-out loss {:.4f}", step, *metrics.held_out_loss));
  }
  if (metrics_ == nullptr) return;
  try {
    metrics_->append(metrics);
  } catch (const Error& error) {
    // A full disk must not cost the training; a checkpoint that fails will say so by itself.
    say(fmt::format("warning: {}. The run goes on without it", error.what()));
    metrics_.reset();
  }
}

void TrainingRun::save() {
  look_after_save(true);
  if (saved_step_ == step_) return;
  save_began_ = std::chrono::steady_clock::now();
  saved(step_, checkpoints_.save(optimizer_, to_json(state_)));
}

void TrainingRun::try_to_save() {
  look_after_save(true);
  save_began_ = std::chrono::steady_clock::now();
  try {
    if (options_.save_in_background) {
      saving_step_ = step_;
      checkpoints_.begin_save(optimizer_, to_json(state_));
    } else {
      saved(step_, checkpoints_.save(optimizer_, to_json(state_)));
    }
  } catch (const CheckpointError& error) {
    warn_not_saved(step_, error);
  }
}

void TrainingRun::look_after_save(bool wait) {
  try {
    if (const auto directory = wait ? checkpoints_.finish() : checkpoints_.poll())
      saved(saving_step_, *directory);
  } catch (const CheckpointError& error) {
    warn_not_saved(saving_step_, error);
  }
}

void TrainingRun::saved(std::int64_t step, const std::filesystem::path& directory) {
  saved_step_ = step;
  if (runtime_.is_root()) progress_->interrupt();
  runtime_.log("step {}: checkpoint {} in {:.1f} s", step, directory.string(),
               seconds_since(save_began_));
}

void TrainingRun::warn_not_saved(std::int64_t step, const CheckpointError& error) {
  if (runtime_.is_root()) progress_->interrupt();
  runtime_.log("warning: no checkpoint at step {}, the run goes on: {}", step, error.what());
}

int TrainingRun::stop_early() {
  if (runtime_.is_root()) progress_->interrupt();
  runtime_.log("asked to stop after step {} of {}", step_, options_.steps);
  save();
  runtime_.log("run the same command again to go on (exit code {})", exit_start_again);
  return exit_start_again;
}

}  // namespace shardmix::train
