#include <fmt/format.h>

#include <optional>

#include "cli/checkpoint_report.hpp"
#include "cli/commands.hpp"
#include "cli/suggest.hpp"
#include "shardmix/checkpoints.hpp"
#include "shardmix/error.hpp"

namespace shardmix::cli {
namespace {

int inspect(const Arguments& arguments) {
  std::optional<std::string> path;
  bool json = false;
  for (const std::string& argument : arguments) {
    if (argument == "--json") {
      json = true;
    } else if (argument.starts_with("-")) {
      throw ConfigError(fmt::format("there is no option {}{}", argument,
                                    did_you_mean(argument, {"--json", "--help"}, "")));
    } else if (path) {
      throw ConfigError(
          fmt::format("checkpoint inspect takes one checkpoint, but '{}' and '{}' were given",
                      *path, argument));
    } else {
      path = argument;
    }
  }
  if (!path) throw ConfigError("checkpoint inspect needs a checkpoint's or a run's directory");
  const CheckpointInfo info = inspect_checkpoint(*path);
  print(json ? report_json(info) : report_text(info));
  return 0;
}

}  // namespace

std::string checkpoint_help() {
  return R"(Usage: shardmix checkpoint inspect PATH [--json]

Tells what a checkpoint holds. PATH is a checkpoint's directory, or a run's, for its newest one.

  --json   print all of it, every parameter included, as one JSON object

Reads the manifest alone, without MPI; the checksums of the files are verified when they are loaded.
)";
}

int checkpoint_command(const Arguments& arguments) {
  for (const std::string& argument : arguments) {
    if (argument == "--help" || argument == "-h") {
      print(checkpoint_help());
      return 0;
    }
  }
  if (arguments.empty()) {
    throw ConfigError("checkpoint needs to be told what to do: shardmix checkpoint inspect PATH");
  }
  if (arguments.front() != "inspect") {
    throw ConfigError(fmt::format("there is no command 'checkpoint {}'{}", arguments.front(),
                                  did_you_mean(arguments.front(), {"inspect"}, "")));
  }
  return inspect(Arguments(arguments.begin() + 1, arguments.end()));
}

}  // namespace shardmix::cli
