#include <fmt/format.h>

#include <optional>

#include "checkpoint/reshard.hpp"
#include "cli/checkpoint_report.hpp"
#include "cli/checkpoint_tools.hpp"
#include "cli/progress_line.hpp"
#include "cli/setters.hpp"
#include "shardmix/error.hpp"
#include "train/format.hpp"

namespace shardmix::cli {
namespace {

constexpr Tool resharding{
    .name = "reshard",
    .help = R"(Usage: shardmix checkpoint reshard PATH --output RUN --ranks N [options]

Writes a checkpoint anew, as N ranks would have written it. PATH is a checkpoint's directory, or a run's,
for its newest one; it is verified first, and stays as it is. RUN is a directory of checkpoints, which is
made where it isn't there; RUN/step_N appears in it when it is complete.

A checkpoint loads on any number of ranks as it is. One in as many files as there are ranks lets each rank
read a file of its own; one in few files spares a file system that minds many.

{}
Examples:
  shardmix checkpoint reshard run --output run-on-64 --ranks 64
  shardmix checkpoint reshard run/step_000012000 --output few --ranks 64 --ranks-per-file 8

Exit codes: 0 done; 1 the checkpoint is damaged, or the new one can't be written; 2 an option makes no sense.
)",
    .paths = 1,
    .needs = "a checkpoint's or a run's directory"};

}  // namespace

int reshard_tool(const Arguments& arguments) {
  std::string output;
  int ranks = 0;
  checkpoint::Cut chosen;
  bool json = false;
  const OptionGroup options{
      .title = "Options",
      .options = {
          text("output", "RUN", "the directory to put the new checkpoint in", output),
          number("ranks", "N", "as if so many had written it", ranks),
          number("ranks-per-file", "K", "so many share a file", chosen.ranks_per_file),
          number("bucket-elements", "E",
                 "as the run that will load it has them, so that its ranks' shards match files",
                 chosen.bucket_elements),
          flag("json", "tell what was written as one JSON object, as inspect does", json)}};
  const auto paths = read_paths(resharding, arguments, options);
  if (!paths) return 0;
  if (output.empty())
    throw ConfigError("checkpoint reshard needs --output RUN, the directory to put the new one in");
  if (ranks == 0) throw ConfigError("checkpoint reshard needs --ranks N");
  chosen.ranks = ranks;
  std::optional<CheckpointInfo> info;
  {
    ProgressLine line("resharding");
    info = checkpoint::reshard_checkpoint(paths->front(), output, chosen, line.callback());
  }
  std::int64_t bytes = 0;
  for (const CheckpointFile& file : info->files) bytes += file.bytes;
  print(json ? report_json(*info)
             : fmt::format("{}: step {} as of {} ranks, in {} files, {}\n",
                           info->directory.string(), info->clocks.step, info->world_size,
                           info->files.size(), train::format_bytes(bytes)));
  return 0;
}

}  // namespace shardmix::cli
