#include "cli/train_options.hpp"

#include "cli/setters.hpp"

namespace shardmix::cli {
namespace {

using train::RuleKind;
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
          number("seed", "N", "of the initial values and the choice of sequences", o.seed),
      }};
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
          choice("dtype", "of parameters and gradients", o.dtype, {{"fp32", fp32}, {"bf16", bf16}}),
          choice("master",
                 "how bf16 keeps its fp32 weights: 2 or 4 bytes an element, the same bits",
                 o.master, {{"remainder", Master::remainder}, {"fp32", Master::full}}),
      }};
}

OptionGroup rule_options(TrainOptions& o) {
  train::RuleOptions& r = o.rule;
  return {
      .title = "The update rule",
      .options = {
          choice("optimizer", "the rule", r.kind,
                 {{"ademamix", RuleKind::ademamix}, {"adamw", RuleKind::adamw}}),
          number("beta1", "X", "decay of m1; 0 stores no m1 (ademamix)", r.beta1),
          number("beta2", "X", "decay of v", r.beta2),
          number("beta3", "X", "decay of m2 (ademamix)", r.beta3,
                 "1 - 1/(0.2 steps), 0.9999 at most"),
          number("alpha", "X", "weight of m2 (ademamix)", r.alpha, "the model's: 8, or 5 for 1.3b"),
          number("alpha-steps", "N", "steps over which alpha grows from 0; 0: at once",
                 r.alpha_steps, "--steps"),
          number("beta3-steps", "N", "steps over which beta3 grows from beta1; 0: at once",
                 r.beta3_steps, "--steps"),
          number("eps", "X", "added to the root of v", r.eps),
          number("weight-decay", "X", "decoupled, times lr; none on biases and norms",
                 r.weight_decay),
          number("clip", "X", "largest gradient norm; 0: no clipping", r.clip,
                 "the model's: nano 1, 110m 0.5, others 0.1"),
      }};
}

std::vector<std::pair<std::string_view, Schedule::Shape>> lr_shapes() {
  std::vector<std::pair<std::string_view, Schedule::Shape>> shapes;
  for (const ShapeInfo& info : schedule_shapes) shapes.emplace_back(info.name, info.shape);
  return shapes;
}

OptionGroup lr_options(TrainOptions& o) {
  train::RuleOptions& r = o.rule;
  return {.title = "The learning rate",
          .options = {
              number("lr", "X", "the peak", r.lr,
                     "the model's: nano 3e-3, 110m 1e-3, 330m 5e-4, 1.3b 3e-4"),
              choice("lr-schedule", "its shape after the warm-up", r.lr_shape, lr_shapes()),
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
          number("keep-last", "N", "checkpoints that stay; 0: all", o.keep_last),
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
