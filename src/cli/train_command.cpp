#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <exception>

#include "cli/commands.hpp"
#include "cli/preset_table.hpp"
#include "cli/ranks.hpp"
#include "cli/train_options.hpp"
#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"
#include "train/train.hpp"

namespace shardmix::cli {
namespace {

/// Runs `parse` and keeps its error: in an MPI job the ranks first have to agree on it.
template <class Function>
std::exception_ptr error_of(Function&& parse) {
  try {
    parse();
  } catch (const Error&) {
    return std::current_exception();
  }
  return nullptr;
}

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(std::llround(1e3 * seconds));
}

void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

int train_on(Runtime& runtime, const train::TrainOptions& options,
             const std::exception_ptr& option_error) {
  comm::agreed(runtime.impl().collectives(), [&] { rethrow(option_error); });
  return train::train(runtime, options);
}

}  // namespace

std::string train_help() {
  train::TrainOptions defaults;
  return fmt::format(
      R"(Usage: shardmix train --text FILE [options]
       mpirun -n RANKS shardmix train --text FILE [options]

Trains a GPT on the bytes of a text with a sharded optimizer, and goes on where it was left.

{}
Presets, all with beta1 0.9, beta2 0.999 and weight decay 0.1:
{}
Examples:
  shardmix train --text book.txt --steps 300
  mpirun -n 4 shardmix train --text book.txt --out run --steps 2000 --dtype bf16
  mpirun -n 2 shardmix train --text book.txt --steps 2000 --switch-at 1000
  mpirun -n 2 shardmix train --text book.txt --out adam --optimizer adamw --steps 1000
  mpirun -n 2 shardmix train --text book.txt --out switched --resume adam --steps 2000 \
      --switch-at 1000 --alpha 2 --alpha-steps 0 --beta3-steps 0
  mpirun -n 8 shardmix train --text book.txt --model 110m --steps 256000 --preset paper-110m

Exit codes: 0 all steps are done; 75 stopped by SIGTERM, SIGINT or SIGUSR1 with a checkpoint, run the
same command again; 2 an option or a file makes no sense; 1 any other failure.
docs/trainer.md has the details.
)",
      describe_options(train_option_groups(defaults)), preset_table());
}

int train_command(const Arguments& arguments, int& argc, char**& argv) {
  train::TrainOptions options;
  Request request = Request::run;
  const std::exception_ptr error = error_of([&] {
    request = parse_options(arguments, train_option_groups(options));
    if (request == Request::run) validate(options);
  });
  if (request == Request::help) {
    print(train_help());
    return 0;
  }
  if (!launched_rank()) rethrow(error);
  // A runtime with what could be read of the options: the ranks need one to agree that they can't
  // be used.
  Runtime runtime(argc, argv,
                  error ? RuntimeOptions{}
                        : RuntimeOptions{.device = options.device,
                                         .threads = options.threads,
                                         .collectives = options.collectives,
                                         .deadline = milliseconds_of(options.deadline)});
  return run_on_ranks(runtime, [&] { return train_on(runtime, options, error); });
}

}  // namespace shardmix::cli
