#include "cli/train_options.hpp"

#include "cli/setters.hpp"
#include "shardmix/presets.hpp"

namespace shardmix::cli {
namespace {

using train::TrainOptions;

OptionGroup run_options(TrainOptions& o) {
  return {
      .title = "The run",
      .options = {
          text("text", "FILE", "the text to train on: any file, read as bytes; required", o.text),
          text("out", "DIR", "the run's directory: checkpoints and metrics.jsonl", o.out),
          text("resume", "auto|none|PATH",
               "auto: from the newest checkpoint in --out, if there is one; none: from the "
               "start; PATH: from this checkpoint, which another rule may have written",
               o.resume),
          number("steps", "N", "optimizer steps of the whole run", o.steps),
          number("batch", "N", "sequences of a step, over all ranks", o.batch),
          number("micro-batch", "N",
                 "most sequences that a rank computes at once; 0: all of its part", o.micro_batch,
                 "a quarter of the batch: 1, 2 and 4 ranks then add the same sums"),
          number("seed", "N",
                 "of the initial values, the choice of sequences and stochastic rounding", o.seed),
      }};
}

std::vector<std::pair<std::string_view, DType>> dtypes() {
  std::vector<std::pair<std::string_view, DType>> all;
  for (const DType dtype : all_dtypes) all.emplace_back(name_of(dtype), dtype);
  return all;
}

OptionGroup model_options(TrainOptions& o) {
  constexpr std::string_view of_model = "the model's";
  return {
      .title = "The model, a GPT on bytes",
      .options = {
          text("model", "NAME",
               "nano (width 128, 4 heads, 4 layers, context 128), 110m (768, 12, 12, 1024), 330m "
               "(1024, 16, 24, 1024) or 1.3b (2048, 16, 24, 1024)",
               o.model),
          number("width", "N", "of the residual stream", o.width, of_model),
          number("heads", "N", "attention heads of a layer; they divide the width", o.heads,
                 of_model),
          number("layers", "N", "transformer blocks", o.layers, of_model),
          number("context", "N", "tokens of a sequence", o.context, of_model),
          choice("dtype", "of parameters and gradients; fp16 on a GPU alone", o.dtype, dtypes()),
          choice("master",
                 "how 16-bit parameters keep their fp32 weights: remainder, 2 bytes an element for "
                 "bf16 (4 for fp16); full, 4 bytes and the same bits; none: updates are rounded "
                 "stochastically",
                 o.master, {train::masters.begin(), train::masters.end()}),
          choice("state",
                 "how m1, m2 and v are kept: full, in fp32; compact, in 8, 16 and 8 bits, rounded "
                 "stochastically",
                 o.state, {train::state_formats.begin(), train::state_formats.end()}),
      }};
}

std::vector<std::pair<std::string_view, std::string>> rules() {
  std::vector<std::pair<std::string_view, std::string>> all;
  for (const Rule& rule : all_rules()) all.emplace_back(name_of(rule), name_of(rule));
  return all;
}

std::vector<std::pair<std::string_view, std::string>> preset_names() {
  std::vector<std::pair<std::string_view, std::string>> all{{"none", ""}};
  for (const Preset& preset : presets()) all.emplace_back(preset.name, preset.name);
  return all;
}

OptionGroup rule_options(TrainOptions& o) {
  train::RuleOptions& r = o.rule;
  return {
      .title = "The update rule",
      .options = {
          choice("optimizer", "the rule; options that it hasn't are of no effect", r.name, rules()),
          choice("preset", "published hyper-parameters, listed below; other options win over it",
                 r.preset, preset_names()),
          number("switch-at", "N",
                 "the first N steps are of --switch-from; then states that both rules have are "
                 "kept, and with m2 the schedules of alpha and beta3 begin; 0: none are",
                 r.switch_at),
          choice("switch-from", "the rule before --switch-at", r.switch_from, rules()),
          choice("switch-m2",
                 "how m2 begins at --switch-at, or where --resume takes up a run without it: at "
                 "zero, or at the bias-corrected m1, which suits a schedule of beta3 alone",
                 r.switch_m2, {{"zero", M2Start::zero}, {"from-m1", M2Start::from_m1}}),
          number("beta1", "X",
                 "decay of m1 (of m2 in simplified-ademamix); 0 stores no m1 (ademamix)", r.beta1,
                 "the rule's: 0.9, simplified-ademamix 0.99"),
          number("beta2", "X", "decay of v (lion: of m1)", r.beta2,
                 "the rule's: 0.999, simplified-ademamix 0.95, lion 0.99"),
          number("beta3", "X", "decay of m2 (ademamix)", r.beta3,
                 "1 - 1/(0.2 steps), 0.9999 at most, of the steps from --switch-at on"),
          number("alpha", "X", "weight of m2 (ademamix) or of the gradient (simplified-ademamix)",
                 r.alpha, "ademamix the model's: 8, or 5 for 1.3b; simplified-ademamix 0"),
          number("min-beta1", "X", "what beta1 grows from (simplified-ademamix)", r.min_beta1,
                 "0.9"),
          number("alpha-steps", "N", "steps over which alpha grows from 0 (ademamix); 0: at once",
                 r.alpha_steps, "--steps, less --switch-at"),
          number("beta1-steps", "N",
                 "steps over which beta1 grows from min-beta1 (simplified-ademamix); 0: at once",
                 r.beta1_steps, "--steps, less --switch-at"),
          number("beta3-steps", "N",
                 "steps over which beta3 grows from beta1 (ademamix); 0: at once", r.beta3_steps,
                 "--steps, less --switch-at"),
          number("eps", "X", "added to the root of v", r.eps, "1e-8"),
          number("weight-decay", "X", "decoupled, times lr; none on biases and norms",
                 r.weight_decay, "the rule's: 0.1, lion 1"),
          number("clip", "X", "largest gradient norm; 0: no clipping", r.clip,
                 "the model's: nano 1, 110m 0.5, others 0.1"),
      }};
}

std::vector<std::pair<std::string_view, std::optional<Schedule::Shape>>> lr_shapes() {
  std::vector<std::pair<std::string_view, std::optional<Schedule::Shape>>> shapes{{"auto", {}}};
  for (const ShapeInfo& info : schedule_shapes) shapes.emplace_back(info.name, info.shape);
  return shapes;
}

OptionGroup lr_options(TrainOptions& o) {
  train::RuleOptions& r = o.rule;
  return {.title = "The learning rate",
          .options = {
              number("lr", "X", "the peak", r.lr,
                     "the model's: nano 3e-3, 110m 1e-3, 330m 5e-4, 1.3b 3e-4; lion a tenth of it, "
                     "simplified-ademamix (1 - beta1) times it"),
              choice("lr-schedule", "its shape after the warm-up; auto: the preset's, or cosine",
                     r.lr_shape, lr_shapes()),
              number("final-lr", "X", "at the last step of linear, cosine and wsd", r.final_lr,
                     "lr / 100"),
              number("warmup", "N", "steps of linear warm-up", r.warmup,
                     "a tenth of --steps, 3000 at most"),
              number("decay", "N", "last steps, over which wsd and wsd-sqrt fall", r.decay,
                     "a fifth of --steps"),
          }};
}

OptionGroup machine_options(TrainOptions& o) {
  return {.title = "The machine",
          .options = {
              choice("device", "what each rank computes on", o.device,
                     {{"host", DeviceKind::host}, {"cuda", DeviceKind::cuda}}),
              number("threads", "N", "host threads of a rank; 0: its share of the node's cores",
                     o.threads),
              choice("gradients",
                     "full: each rank holds its whole gradient; sharded: only buckets that await "
                     "their reduction (ZeRO's second stage)",
                     o.shard_gradients, {{"full", false}, {"sharded", true}}),
              collectives("collectives", o.collectives),
              number("deadline", "S",
                     "seconds that a rank waits for the others in one operation, before all end "
                     "with an error that names the rank at fault",
                     o.deadline),
          }};
}

OptionGroup report_options(TrainOptions& o) {
  return {
      .title = "Reports and checkpoints",
      .options = {
          number("eval-every", "N", "steps between held-out losses; 0: at the end alone",
                 o.eval_every),
          number("eval-sequences", "N", "sequences of a held-out loss; 0: never", o.eval_sequences),
          number("checkpoint-every", "N", "steps between checkpoints; 0: at the end alone",
                 o.checkpoint_every),
          choice("saves",
                 "wait: the run waits until a checkpoint is on the disk; background: it goes on "
                 "while a copy is written, which takes the host 16 bytes a parameter more over all "
                 "ranks",
                 o.save_in_background, {{"wait", false}, {"background", true}}),
          number("keep-last", "N", "checkpoints that stay; 0: all", o.keep_last),
          number("keep-every", "N",
                 "checkpoints of every so many steps stay beside the last ones; 0: none",
                 o.keep_every),
          number("ranks-per-file", "N", "ranks of a node that share a file of a checkpoint",
                 o.ranks_per_file),
          number("log-every", "N", "steps between lines where standard error is no terminal",
                 o.log_every),
      }};
}

}  // namespace

std::vector<OptionGroup> train_option_groups(TrainOptions& target) {
  return {run_options(target), model_options(target),   rule_options(target),
          lr_options(target),  machine_options(target), report_options(target)};
}

}  // namespace shardmix::cli
