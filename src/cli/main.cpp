#include <fmt/format.h>

#include <exception>

#include "cli/commands.hpp"
#include "cli/suggest.hpp"
#include "shardmix/error.hpp"
#include "shardmix/version.hpp"
#include "train/train.hpp"

namespace shardmix::cli {
namespace {

std::string version_text() {
  return fmt::format("{}, trainer {}\n", build_description(),
                     train::trainer_available() ? "ON" : "OFF");
}

std::string help_for(const Arguments& arguments) {
  if (arguments.empty()) return help();
  if (arguments.front() == "train") return train_help();
  if (arguments.front() == "checkpoint") return checkpoint_help();
  if (arguments.front() == "import") return import_help();
  if (arguments.front() == "bench") return bench_help();
  return help();
}

int run(int& argc, char**& argv) {
  const Arguments all(argv + 1, argv + argc);
  if (all.empty()) {
    if (is_first_process()) fmt::print(stderr, "{}", help());
    return exit_usage;
  }
  const std::string& command = all.front();
  const Arguments arguments(all.begin() + 1, all.end());
  if (command == "train") return train_command(arguments, argc, argv);
  if (command == "checkpoint") return checkpoint_command(arguments);
  if (command == "import") return import_command(arguments);
  if (command == "bench") return bench_command(arguments, argc, argv);
  if (command == "--version") {
    print(version_text());
  } else if (command == "--help" || command == "-h" || command == "help") {
    print(help_for(arguments));
  } else {
    throw ConfigError(fmt::format(
        "there is no command '{}'{}; shardmix --help lists them", command,
        did_you_mean(command,
                     {"train", "checkpoint", "import", "bench", "help", "--help", "--version"},
                     "")));
  }
  return 0;
}

}  // namespace

std::string help() {
  return R"(Usage: shardmix COMMAND [options]

A sharded optimizer for MPI clusters: AdEMAMix, AdamW, Simplified-AdEMAMix and Lion.

  train        train a GPT on any text (mpirun -n RANKS shardmix train ... on several ranks)
  checkpoint   inspect, verify, compare, export and prune checkpoints
  import       go on with a run that another program's AdamW or AdEMAMix began
  bench        measure the update, whole steps, the collectives and checkpoints
  help         this text, or a command's: shardmix help train
  --version    the version, and what this build can do

shardmix COMMAND --help tells a command's options.
)";
}

}  // namespace shardmix::cli

int main(int argc, char** argv) {
  using namespace shardmix;
  // Only what is thrown before MPI runs, or after it has ended, comes here.
  const auto fail = [](const std::exception& error, int exit_code) {
    if (cli::is_first_process()) cli::complain(error.what());
    return exit_code;
  };
  try {
    return cli::run(argc, argv);
  } catch (const ConfigError& error) {
    return fail(error, cli::exit_usage);
  } catch (const std::exception& error) {
    return fail(error, cli::exit_failure);
  }
}
