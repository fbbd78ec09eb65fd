#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/checkpoint_bench.hpp"
#include "bench/collectives_bench.hpp"
#include "bench/precisions.hpp"
#include "bench/step_bench.hpp"
#include "bench/update_bench.hpp"
#include "cli/commands.hpp"
#include "cli/ranks.hpp"
#include "cli/setters.hpp"
#include "cli/suggest.hpp"
#include "shardmix/error.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::cli {
namespace {

using bench::Result;
using bench::UpdateOptions;

std::vector<std::string_view> precision_names() {
  std::vector<std::string_view> names;
  for (const bench::Precision& p : bench::all_precisions()) names.push_back(p.name);
  return names;
}

std::vector<std::string_view> rule_names() {
  std::vector<std::string_view> names;
  for (const Rule& rule : all_rules()) names.push_back(name_of(rule));
  return names;
}

Option rules(std::string_view standard, std::vector<std::string>& target) {
  return list("rule", "NAMES",
              fmt::format("with commas: {} (default: {})", fmt::join(rule_names(), ", "), standard),
              target);
}

Option device(DeviceKind& target) {
  return choice("device", "where", target,
                {{"host", DeviceKind::host}, {"cuda", DeviceKind::cuda}});
}

Option rounds(int& target) {
  return number("rounds", "N", "of which the median counts", target);
}

std::vector<OptionGroup> update_groups(UpdateOptions& o) {
  std::string precisions;
  for (const bench::Precision& p : bench::all_precisions())
    precisions += fmt::format("{}{} ({})", precisions.empty() ? "" : "; ", p.name, p.meaning);
  return {
      {.title = "What is measured",
       .options = {
           rules("all", o.rules),
           list("precision", "NAMES",
                fmt::format("with commas: {} (default: all). Gradients have the parameters' type",
                            precisions),
                o.precisions),
           number("parameters", "N", "elements, a multiple of 256", o.parameters),
           rounds(o.rounds),
           device(o.device),
           number("threads", "N", "of the host; 0: as many as it has cores", o.threads),
       }}};
}

/// What the benches of all ranks together share.
void add_group_options(std::vector<Option>& options, bench::GroupOptions& o) {
  options.push_back(
      list("collectives", "NAMES",
           "with commas, to compare: auto, shared, hierarchical, mpi, nccl; and library, "
           "MPI_Reduce_scatter_block with fp32 sums and MPI_Allgather; and library-rounded, with "
           "16-bit sums (default: auto)",
           o.collectives));
  options.push_back(
      number("parameters", "N", "of the model, a multiple of 256 times the ranks", o.parameters));
  options.push_back(number("bucket", "N", "parameters of a bucket", o.bucket_elements,
                           "4194304 on hosts, 33554432 on GPUs, 67108864 on one"));
  options.push_back(rounds(o.rounds));
  options.push_back(
      choice("bound", "on one node; its pass takes as much memory again", o.bound,
             std::vector<std::pair<std::string_view, bool>>{{"memory", true}, {"none", false}}));
  options.push_back(device(o.device));
  options.push_back(
      number("threads", "N", "of each rank; 0: its share of the node's cores", o.threads));
  options.push_back(number("link-gbit", "X",
                           "gigabits a second that a host's link carries each way, as a plain "
                           "stream reaches them: the bound on several hosts; 0: unknown",
                           o.link_gigabits));
}

std::vector<OptionGroup> step_groups(bench::StepOptions& o) {
  std::vector<Option> options{
      rules("ademamix", o.rules),
      list("precision", "NAMES",
           fmt::format("with commas: {} (default: bf16)", fmt::join(precision_names(), ", ")),
           o.precisions),
      number("compute", "S",
             "seconds of a synthetic forward and backward pass around the step, behind which the "
             "communication may hide; 0: as long as the communication takes",
             o.compute, "none")};
  add_group_options(options, o);
  return {{.title = "What is measured", .options = std::move(options)}};
}

std::vector<OptionGroup> collectives_groups(bench::CollectivesOptions& o) {
  std::vector<Option> options{choice("dtype", "of parameters and gradients", o.dtype,
                                     {{"bf16", DType::bf16}, {"fp32", DType::fp32}})};
  add_group_options(options, o);
  return {{.title = "What is measured", .options = std::move(options)}};
}

std::vector<OptionGroup> checkpoint_groups(bench::CheckpointOptions& o) {
  return {
      {.title = "What is measured",
       .options = {
           text("directory", "DIR",
                "where a directory is made, filled with three times the state, and removed",
                o.directory),
           text("rule", "NAME", fmt::format("one of {}", fmt::join(rule_names(), ", ")), o.rule),
           text("precision", "NAME",
                fmt::format("one of {}; files hold fp32 whatever it is",
                            fmt::join(precision_names(), ", ")),
                o.precision),
           number("parameters", "N", "of the model", o.parameters),
           number("bucket", "N", "parameters of a bucket", o.bucket_elements),
           number("compute", "S",
                  "seconds of a synthetic forward and backward pass, behind which a save in the "
                  "background copies the state",
                  o.compute),
           number("ranks-per-file", "K", "so many share a file", o.ranks_per_file),
           rounds(o.rounds),
           device(o.device),
           number("threads", "N", "of each rank; 0: its share of the node's cores", o.threads),
       }}};
}

nlohmann::ordered_json number_or_null(bool known, double value) {
  return known ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

std::string json_of(const Result& r) {
  const bool has_bound = r.bound_seconds > 0.0;
  nlohmann::ordered_json json{
      {"rule", r.rule},
      {"precision", r.precision},
      {"device", r.device},
      {"threads", r.threads},
      {"parameters", r.parameters},
      {"bytes_per_parameter", r.bytes_per_parameter},
      {"mparameters_per_second", r.mparameters_per_second()},
      {"gigabytes_per_second", r.gigabytes_per_second()},
      {"bound_gigabytes_per_second", number_or_null(has_bound, r.bound_gigabytes_per_second())},
      {"fraction_of_bound", number_or_null(has_bound, r.fraction_of_bound())}};
  if (!r.collectives.empty()) {
    json["operation"] = r.operation;
    json["collectives"] = r.collectives;
    json["ranks"] = r.ranks;
    json["hosts"] = r.hosts;
    json["seconds"] = r.seconds;
    json["bound_seconds"] = number_or_null(has_bound, r.bound_seconds);
    if (r.hidden >= 0.0) json["hidden"] = r.hidden;
  }
  return json.dump() + '\n';
}

std::string update_heading() {
  return fmt::format("{:<20} {:<23} {:>7} {:>8} {:>10} {:>8} {:>8} {:>10}\n", "rule", "precision",
                     "threads", "B/param", "Mparam/s", "GB/s", "bound", "of bound");
}

std::string update_row(const Result& r) {
  return fmt::format("{:<20} {:<23} {:>7} {:>8.2f} {:>10.1f} {:>8.2f} {:>8.2f} {:>9.1f}%\n", r.rule,
                     r.precision, r.threads, r.bytes_per_parameter, r.mparameters_per_second(),
                     r.gigabytes_per_second(), r.bound_gigabytes_per_second(),
                     100.0 * r.fraction_of_bound());
}

std::string group_heading() {
  return fmt::format("{:<15} {:<10} {:<13} {:<13} {:>5} {:>5} {:>8} {:>9} {:>9} {:>9} {:>7}\n",
                     "operation", "rule", "precision", "collectives", "ranks", "hosts", "B/param",
                     "ms", "bound ms", "of bound", "hidden");
}

std::string group_row(const Result& r) {
  const bool has_bound = r.bound_seconds > 0.0;
  const auto known = [](bool is_known, const std::string& text) {
    return is_known ? text : std::string("-");
  };
  return fmt::format(
      "{:<15} {:<10} {:<13} {:<13} {:>5} {:>5} {:>8.2f} {:>9.2f} {:>9} {:>9} {:>7}\n", r.operation,
      r.rule.empty() ? "-" : r.rule, r.precision, r.collectives, r.ranks, r.hosts,
      r.bytes_per_parameter, 1e3 * r.seconds,
      known(has_bound, fmt::format("{:.2f}", 1e3 * r.bound_seconds)),
      known(has_bound, fmt::format("{:.1f}%", 100.0 * r.fraction_of_bound())),
      known(r.hidden >= 0.0, fmt::format("{:.1f}%", 100.0 * r.hidden)));
}

/// Prints each result as soon as it is there.
bench::Report printer(bool json, std::string (*row)(const Result&)) {
  return [json, row](const Result& result) {
    print(json ? json_of(result) : row(result));
    std::fflush(stdout);
  };
}

int update(Arguments arguments) {
  UpdateOptions options;
  const bool json = std::erase(arguments, "--json") > 0;
  if (parse_options(arguments, update_groups(options)) == Request::help) {
    print(bench_help("update"));
    return 0;
  }
  if (!json) print(update_heading());
  bench::run_update(options, printer(json, update_row));
  return 0;
}

/// A bench that all ranks run together.
template <class Options, class Groups, class Run>
int together(const std::string& name, Arguments arguments, int& argc, char**& argv,
             const Groups& groups, const Run& run) {
  Options options;
  const bool json = std::erase(arguments, "--json") > 0;
  if (parse_options(arguments, groups(options)) == Request::help) {
    print(bench_help(name));
    return 0;
  }
  const Runtime runtime(argc, argv, {.threads = 1});
  return run_on_ranks(runtime, [&] {
    if (!json && runtime.is_root()) print(group_heading());
    run(options, printer(json, group_row));
    return 0;
  });
}

std::string update_help() {
  UpdateOptions defaults;
  return fmt::format(R"(Usage: shardmix bench update [--json] [options]

Measures the update of a shard: for each rule and precision the bytes that one parameter moves, the
parameters and bytes a second, and the fraction of the bound: a pass over the same memory in the same
run that reads and writes each byte once and does nothing else, or a large copy where that is faster,
as it is on GPUs.

{}
  --json                   one JSON object a line instead of a table

Examples:
  shardmix bench update
  shardmix bench update --rule ademamix,adamw --precision fp32,bf16 --threads 1
  shardmix bench update --json --precision bf16-compact --parameters 268435456

Other work on the machine, and few parameters (below 8 million they stay in caches), spoil the
figures.
)",
                     describe_options(update_groups(defaults)));
}

std::string step_help() {
  bench::StepOptions defaults;
  return fmt::format(R"(Usage: mpirun -n RANKS shardmix bench step [--json] [options]

Measures a whole step of all ranks: reduction, norm, update and the way of the new parameters to all.
On one node the bound is a pass over the memory that must be moved, by all ranks at once in the same
run; on several it is what their links must carry (--link-gbit). With --compute a step lies between
synthetic passes that leave the host idle, as a GPU's would, and the last column is the part of the
communication that took no time.

{}
  --json                   one JSON object a line instead of a table

Examples:
  mpirun -n 2 shardmix bench step --collectives shared,mpi,library
  mpirun -n 2 shardmix bench step --precision bf16,bf16-compact --threads 1 --json
  mpirun --host a:8,b:8 shardmix bench step --link-gbit 94.1 --compute 0
)",
                     describe_options(step_groups(defaults)));
}

std::string collectives_help() {
  bench::CollectivesOptions defaults;
  return fmt::format(R"(Usage: mpirun -n RANKS shardmix bench collectives [--json] [options]

Measures the reduction of gradients to shards (with their sum), the gather of parameters, and both in
a row. The bound is as in bench step.

{}
  --json                   one JSON object a line instead of a table

Examples:
  mpirun -n 4 shardmix bench collectives --collectives shared,mpi,library
  mpirun --host a:2,b:2 shardmix bench collectives --dtype fp32 --link-gbit 0.95
)",
                     describe_options(collectives_groups(defaults)));
}

std::string checkpoint_bench_help() {
  bench::CheckpointOptions defaults;
  return fmt::format(R"(Usage: mpirun -n RANKS shardmix bench checkpoint [--json] [options]

Measures saves and loads of all ranks. Their bound are as many bytes in plain files in the same
directory, one a rank, written in a row and synced, or read in a row. A cold load comes from the disk,
a warm one from the system's cache. The stall is what an iteration, a pass that leaves the host idle
and a step, takes longer with the beginning of a save in the background.

{}
  --json                   one JSON object a line instead of a table

Examples:
  mpirun -n 2 shardmix bench checkpoint --directory /scratch
  mpirun -n 2 shardmix bench checkpoint --parameters 268435456 --json
)",
                     describe_options(checkpoint_groups(defaults)));
}

std::string overview() {
  return R"(Usage: shardmix bench update|step|collectives|checkpoint [--json] [options]

  update        the update of a shard, on one process
  step          a whole step, on all ranks of an mpirun
  collectives   reduction and gather alone, on all ranks of an mpirun
  checkpoint    saves and loads, on all ranks of an mpirun

shardmix bench update --help tells its options, and so on.
)";
}

}  // namespace

std::string bench_help(std::string_view what) {
  if (what == "update") return update_help();
  if (what == "step") return step_help();
  if (what == "collectives") return collectives_help();
  if (what == "checkpoint") return checkpoint_bench_help();
  return overview();
}

int bench_command(const Arguments& arguments, int& argc, char**& argv) {
  if (arguments.empty())
    throw ConfigError(
        "bench needs to be told what to measure: shardmix bench update, step, collectives or "
        "checkpoint");
  const std::string& what = arguments.front();
  const Arguments rest(arguments.begin() + 1, arguments.end());
  if (what == "update") return update(rest);
  if (what == "step")
    return together<bench::StepOptions>("step", rest, argc, argv, step_groups, bench::run_step);
  if (what == "collectives")
    return together<bench::CollectivesOptions>("collectives", rest, argc, argv, collectives_groups,
                                               bench::run_collectives);
  if (what == "checkpoint")
    return together<bench::CheckpointOptions>("checkpoint", rest, argc, argv, checkpoint_groups,
                                              bench::run_checkpoint);
  if (what != "--help" && what != "-h") {
    throw ConfigError(
        fmt::format("there is no command 'bench {}'{}", what,
                    did_you_mean(what, {"update", "step", "collectives", "checkpoint"}, "")));
  }
  print(bench_help());
  return 0;
}

}  // namespace shardmix::cli
