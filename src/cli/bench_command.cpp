#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/update_bench.hpp"
#include "cli/commands.hpp"
#include "cli/setters.hpp"
#include "cli/suggest.hpp"
#include "shardmix/error.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::cli {
namespace {

using bench::UpdateOptions;
using bench::UpdateResult;

/// An option whose value is a list with commas.
Option list(std::string name, std::string value, std::string help,
            std::vector<std::string>& target) {
  return {std::move(name), std::move(value), std::move(help), [&target](const std::string& text) {
            target.clear();
            for (std::size_t begin = 0; begin <= text.size();) {
              const std::size_t end = std::min(text.find(',', begin), text.size());
              target.push_back(text.substr(begin, end - begin));
              begin = end + 1;
            }
          }};
}

std::vector<OptionGroup> update_groups(UpdateOptions& o) {
  std::string rules;
  for (const Rule& rule : all_rules())
    rules += fmt::format("{}{}", rules.empty() ? "" : ", ", name_of(rule));
  std::string precisions;
  for (const bench::PrecisionName& p : bench::precision_names())
    precisions += fmt::format("{}{} ({})", precisions.empty() ? "" : "; ", p.name, p.meaning);
  return {
      {.title = "What is measured",
       .options = {
           list("rule", "NAMES", fmt::format("with commas: {} (default: all)", rules), o.rules),
           list("precision", "NAMES",
                fmt::format("with commas: {} (default: all). Gradients have the parameters' type",
                            precisions),
                o.precisions),
           number("parameters", "N", "elements, a multiple of 256", o.parameters),
           number("rounds", "N", "of which the median counts", o.rounds),
           choice("device", "where", o.device,
                  {{"host", DeviceKind::host}, {"cuda", DeviceKind::cuda}}),
           number("threads", "N", "of the host; 0: as many as it has cores", o.threads),
       }}};
}

std::string json_of(const UpdateResult& r) {
  return nlohmann::ordered_json{{"rule", r.rule},
                                {"precision", r.precision},
                                {"device", r.device},
                                {"threads", r.threads},
                                {"parameters", r.parameters},
                                {"bytes_per_parameter", r.bytes_per_parameter},
                                {"mparameters_per_second", r.mparameters_per_second},
                                {"gigabytes_per_second", r.gigabytes_per_second},
                                {"bound_gigabytes_per_second", r.bound_gigabytes_per_second},
                                {"fraction_of_bound", r.fraction_of_bound()}}
             .dump() +
         '\n';
}

std::string row_of(const UpdateResult& r) {
  return fmt::format("{:<20} {:<23} {:>7} {:>8.2f} {:>10.1f} {:>8.2f} {:>8.2f} {:>9.1f}%\n", r.rule,
                     r.precision, r.threads, r.bytes_per_parameter, r.mparameters_per_second,
                     r.gigabytes_per_second, r.bound_gigabytes_per_second,
                     100.0 * r.fraction_of_bound());
}

std::string heading() {
  return fmt::format("{:<20} {:<23} {:>7} {:>8} {:>10} {:>8} {:>8} {:>10}\n", "rule", "precision",
                     "threads", "B/param", "Mparam/s", "GB/s", "bound", "of bound");
}

int update(Arguments arguments) {
  UpdateOptions options;
  const bool json = std::erase(arguments, "--json") > 0;
  if (parse_options(arguments, update_groups(options)) == Request::help) {
    print(bench_help());
    return 0;
  }
  if (!json) print(heading());
  bench::run_update(options, [&](const UpdateResult& result) {
    print(json ? json_of(result) : row_of(result));
    std::fflush(stdout);
  });
  return 0;
}

}  // namespace

std::string bench_help() {
  UpdateOptions defaults;
  return fmt::format(R"(Usage: shardmix bench update [--json] [options]

Measures the update of a shard: for each rule and precision the bytes that one parameter moves, the
parameters and bytes a second, and the fraction of the bound: a pass over the same memory in the same
run that reads and writes each byte once and does nothing else.

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

int bench_command(const Arguments& arguments) {
  if (arguments.empty() || arguments.front() == "--help" || arguments.front() == "-h") {
    if (arguments.empty())
      throw ConfigError("bench needs to be told what to measure: shardmix bench update");
    print(bench_help());
    return 0;
  }
  if (arguments.front() != "update") {
    throw ConfigError(fmt::format("there is no command 'bench {}'{}", arguments.front(),
                                  did_you_mean(arguments.front(), {"update"}, "")));
  }
  return update(Arguments(arguments.begin() + 1, arguments.end()));
}

}  // namespace shardmix::cli
