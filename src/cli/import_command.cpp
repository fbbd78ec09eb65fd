#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "checkpoint/importer.hpp"
#include "cli/commands.hpp"
#include "cli/import_report.hpp"
#include "cli/progress_line.hpp"
#include "cli/setters.hpp"
#include "shardmix/error.hpp"

namespace shardmix::cli {
namespace {

namespace fs = std::filesystem;
using checkpoint::WithoutMoments;

constexpr std::string_view help_text = R"(Usage: shardmix import SIDECAR.json --output RUN [options]
       shardmix import FILE.safetensors... --output RUN [options]

Writes a checkpoint from the weights and moments of a run that another program's AdamW or AdEMAMix began;
shardmix train --out RUN, or the library's resume, goes on from it. Without MPI or a GPU. Nothing of the
source is run: it is JSON and numbers. docs/importing.md tells how to get there from PyTorch, DeepSpeed and
Megatron, with shardmix-export.

A sidecar says what each tensor of its files is. Without one the tensors' names do (--naming):

  NAME, NAME.master                          weights, and fp32 master weights where those are in 16 bits
  NAME.m1, NAME.exp_avg, NAME.exp_avg_fast   the fast average
  NAME.m2, NAME.exp_avg_slow                 the slow average
  NAME.v, NAME.exp_avg_sq                    the average of squares
  NAME.step                                  the step; or the metadata's, or --step

{}
Examples:
  shardmix-export checkpoint.pt states && shardmix import states.json --output run
  shardmix import states.json --check
  shardmix import model.safetensors moments.safetensors --step 12000 --output run

Exit codes: 0 done; 1 the source is damaged, lacks something or could mean two things; 2 an option makes no
sense.
)";

struct Choices {
  std::string output;
  bool check = false;
  std::string naming;
  std::string names;
  std::string rule;
  std::optional<std::int64_t> step;
  WithoutMoments without_moments = WithoutMoments::refuse;
  checkpoint::Cut cut;
  bool json = false;
};

OptionGroup options_of(Choices& chosen) {
  return {
      .title = "Options",
      .options = {
          text("output", "RUN", "the directory to put the checkpoint in", chosen.output),
          flag("check", "tell what would become what, look at all values, and write nothing",
               chosen.check),
          text("naming", "RULES",
               "without a sidecar, what tensors are by their names, in which NAME stands for the "
               "parameter's; parts that are left out stay as they are: " +
                   checkpoint::default_naming(),
               chosen.naming),
          text("names", "FILE",
               "the parameters' names, one a line, in the order of the sidecar or of the numbers "
               "that the source has for names",
               chosen.names),
          text("rule", "RULE", "adamw or ademamix, where the source doesn't say", chosen.rule),
          number("step", "N", "steps that were taken; must agree with what the source says",
                 chosen.step, "the source's"),
          choice<WithoutMoments>("without-moments",
                                 "parameters that have weights alone: refuse, or they are stored "
                                 "as frozen, or their moments start as zeros, or skip them",
                                 chosen.without_moments,
                                 {{"refuse", WithoutMoments::refuse},
                                  {"frozen", WithoutMoments::frozen},
                                  {"zeros", WithoutMoments::zeros},
                                  {"skip", WithoutMoments::skip}}),
          number("ranks", "N", "as if so many had written it", chosen.cut.ranks),
          number("ranks-per-file", "K", "so many share a file", chosen.cut.ranks_per_file),
          number("bucket-elements", "E",
                 "as the run that will load it has them, so that its ranks' shards match files",
                 chosen.cut.bucket_elements),
          flag("json", "tell what becomes what as one JSON object", chosen.json)}};
}

checkpoint::ImportSource source_of(const std::vector<std::string>& paths, const Choices& chosen) {
  const bool has_sidecar = std::ranges::any_of(
      paths, [](const std::string& path) { return fs::path(path).extension() == ".json"; });
  if (!has_sidecar)
    return checkpoint::match_names({paths.begin(), paths.end()},
                                   checkpoint::naming_from(chosen.naming));
  if (paths.size() > 1)
    throw ConfigError("a sidecar names its files itself: give the sidecar alone, or files alone");
  if (!chosen.naming.empty())
    throw ConfigError("--naming is for files without a sidecar, which says itself what they hold");
  return checkpoint::read_sidecar(paths.front());
}

checkpoint::PlanOptions plan_options(const Choices& chosen) {
  checkpoint::PlanOptions options{.step = chosen.step, .without_moments = chosen.without_moments};
  if (!chosen.rule.empty()) options.rule = chosen.rule;
  if (!chosen.names.empty()) options.names = checkpoint::read_names(chosen.names);
  return options;
}

}  // namespace

std::string import_help() {
  Choices defaults;
  return fmt::format(fmt::runtime(help_text), describe_options(options_of(defaults)));
}

int import_command(const Arguments& arguments) {
  Choices chosen;
  std::vector<std::string> paths;
  if (parse_options(arguments, options_of(chosen), paths) == Request::help) {
    print(import_help());
    return 0;
  }
  if (paths.empty()) {
    throw ConfigError(
        "import needs a sidecar or safetensors files; shardmix import --help tells more");
  }
  if (chosen.output.empty() == !chosen.check)
    throw ConfigError(
        "import needs either --output RUN, the directory to put the checkpoint in, "
        "or --check");
  checkpoint::ImportPlan plan = plan_import(source_of(paths, chosen), plan_options(chosen));
  std::optional<CheckpointInfo> written;
  {
    ProgressLine line("checking");
    if (!chosen.check) require_sensible(chosen.cut, chosen.output, plan.info.clocks.step);
    check_values(plan, line.callback());
  }
  if (!chosen.check) {
    ProgressLine line("importing");
    written = write_import(plan, chosen.output, chosen.cut, line.callback());
  }
  print(chosen.json ? import_json(plan, written) : import_text(plan, written));
  return 0;
}

}  // namespace shardmix::cli
