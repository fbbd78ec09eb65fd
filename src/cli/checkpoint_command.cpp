#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/checkpoint_report.hpp"
#include "cli/checkpoint_tools.hpp"
#include "cli/safetensors_report.hpp"
#include "cli/setters.hpp"
#include "cli/suggest.hpp"
#include "shardmix/checkpoints.hpp"
#include "shardmix/error.hpp"

namespace shardmix::cli {
namespace {

constexpr Tool inspect{.name = "inspect",
                       .help = R"(Usage: shardmix checkpoint inspect PATH [--json]

Tells what a checkpoint holds. PATH is a checkpoint's directory, or a run's, for its newest one; or any
program's FILE.safetensors, whose tensors it lists.

{}
Reads the manifest alone; shardmix checkpoint verify reads the rest. Of a safetensors file it reads the
header, compares it with the file's size, and refuses what isn't as the format demands.

Examples:
  shardmix checkpoint inspect run
  shardmix checkpoint inspect run/step_000012000 --json
  shardmix checkpoint inspect model.safetensors
)",
                       .paths = 1,
                       .needs = "a checkpoint's or a run's directory, or a safetensors file"};

struct NamedTool {
  std::string_view name;
  int (*run)(const Arguments&);
};
constexpr std::array all_tools{
    NamedTool{"inspect", inspect_tool}, NamedTool{"verify", verify_tool},
    NamedTool{"diff", diff_tool},       NamedTool{"export", export_tool},
    NamedTool{"prune", prune_tool},     NamedTool{"reshard", reshard_tool}};

}  // namespace

int inspect_tool(const Arguments& arguments) {
  bool json = false;
  const OptionGroup options{
      .title = "Options",
      .options = {
          flag("json", "print all of it, every parameter included, as one JSON object", json)}};
  const auto paths = read_paths(inspect, arguments, options);
  if (!paths) return 0;
  const std::filesystem::path path = paths->front();
  if (path.extension() == ".safetensors" && !std::filesystem::is_directory(path)) {
    const checkpoint::Safetensors file = checkpoint::read_safetensors(path);
    print(json ? report_json(path, file) : report_text(path, file));
    return 0;
  }
  const CheckpointInfo info = inspect_checkpoint(path);
  print(json ? report_json(info) : report_text(info));
  return 0;
}

std::string checkpoint_help() {
  return R"(Usage: shardmix checkpoint inspect PATH [--json]
       shardmix checkpoint verify PATH [--all] [--quiet] [--json]
       shardmix checkpoint diff A B [--top N] [--json]
       shardmix checkpoint export PATH --output FILE [options]
       shardmix checkpoint prune RUN --keep-last N [options]
       shardmix checkpoint reshard PATH --output RUN --ranks N [options]

Work on checkpoints without MPI or a GPU. PATH, A and B are directories of checkpoints, or of runs, for
the newest one of each.

  inspect   tell what a checkpoint holds, or a safetensors file
  verify    read all of it and compare every checksum
  diff      tell what differs between two, whatever number of ranks wrote them
  export    write one file in HDF5 or safetensors that other programs read
  prune     remove a run's old checkpoints
  reshard   write it anew, as another number of ranks would have

shardmix checkpoint verify --help tells its options, and so on.
)";
}

int checkpoint_command(const Arguments& arguments) {
  if (arguments.empty()) {
    throw ConfigError(
        "checkpoint needs to be told what to do: shardmix checkpoint inspect PATH, verify PATH, "
        "diff A B, export PATH, prune RUN or reshard PATH");
  }
  const std::string& what = arguments.front();
  if (what == "--help" || what == "-h") {
    print(checkpoint_help());
    return 0;
  }
  const auto tool = std::ranges::find(all_tools, what, &NamedTool::name);
  if (tool == all_tools.end()) {
    std::vector<std::string> names;
    for (const NamedTool& known : all_tools) names.emplace_back(known.name);
    throw ConfigError(
        fmt::format("there is no command 'checkpoint {}'{}", what, did_you_mean(what, names, "")));
  }
  return tool->run(Arguments(arguments.begin() + 1, arguments.end()));
}

}  // namespace shardmix::cli
