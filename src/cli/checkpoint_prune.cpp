#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/files.hpp"
#include "checkpoint/run_directory.hpp"
#include "cli/checkpoint_tools.hpp"
#include "cli/setters.hpp"
#include "shardmix/error.hpp"
#include "train/format.hpp"

namespace shardmix::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr Tool prune{
    .name = "prune",
    .help =
        R"(Usage: shardmix checkpoint prune RUN --keep-last N [--keep-every M] [--dry-run] [--json]

Removes old checkpoints of the run in RUN, the oldest first. The newest always stays. Each loses its name
before its files go, so that none is ever half there. Where one can't be removed, the others still are.

{}
Examples:
  shardmix checkpoint prune run --keep-last 3 --dry-run
  shardmix checkpoint prune run --keep-last 3 --keep-every 10000

Exit codes: 0 done; 1 there is no checkpoint, or one can't be removed; 2 an option makes no sense.
)",
    .paths = 1,
    .needs = "a run's directory"};

struct Sized {
  fs::path path;
  std::int64_t bytes = 0;
  std::string error = {};  ///< why it can't be removed
};

std::vector<Sized> sizes_of(const std::vector<fs::path>& checkpoints) {
  std::vector<Sized> sized;
  for (const fs::path& path : checkpoints) {
    std::int64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.is_regular_file()) bytes += static_cast<std::int64_t>(entry.file_size());
    }
    sized.push_back({path, bytes});
  }
  return sized;
}

/// Goes on with the others where one can't be removed.
void retire(std::vector<Sized>& old) {
  for (Sized& one : old) {
    try {
      checkpoint::retire_directory(one.path);
    } catch (const CheckpointError& error) {
      one.error = error.what();
    }
  }
}

std::string text_of(const std::vector<Sized>& old, std::size_t kept, bool dry_run) {
  std::string text;
  std::int64_t bytes = 0;
  std::size_t failed = 0;
  for (const Sized& checkpoint : old) {
    if (!checkpoint.error.empty()) {
      ++failed;
      continue;
    }
    text += fmt::format("{} {}  {}\n", dry_run ? "would remove" : "removed",
                        checkpoint.path.string(), train::format_bytes(checkpoint.bytes));
    bytes += checkpoint.bytes;
  }
  return text + fmt::format("{} checkpoint(s) {}, {};{} {} kept\n", old.size() - failed,
                            dry_run ? "would be removed" : "removed", train::format_bytes(bytes),
                            failed > 0 ? fmt::format(" {} can't be removed;", failed) : "", kept);
}

std::string json_of(const std::vector<Sized>& old, const std::vector<fs::path>& kept,
                    bool dry_run) {
  Json json{{"dry_run", dry_run},
            {"removed", Json::array()},
            {"failed", Json::array()},
            {"kept", Json::array()}};
  for (const Sized& checkpoint : old) {
    Json entry{{"directory", checkpoint.path.string()}, {"bytes", checkpoint.bytes}};
    if (!checkpoint.error.empty()) entry["error"] = checkpoint.error;
    json[checkpoint.error.empty() ? "removed" : "failed"].push_back(std::move(entry));
  }
  for (const fs::path& path : kept) json["kept"].push_back({{"directory", path.string()}});
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

void require_run(const fs::path& run) {
  if (checkpoint::find_checkpoint(run) == run) {
    throw ConfigError(fmt::format(
        "'{}' is a checkpoint; checkpoint prune needs the directory of its run", run.string()));
  }
}

}  // namespace

int prune_tool(const Arguments& arguments) {
  CheckpointOptions keep{.keep_last = 0};
  bool dry_run = false;
  bool json = false;
  const Option keep_last{
      "keep-last", "N", "so many of the newest stay, at least 1", [&keep](const std::string& text) {
        keep.keep_last = parse_number<int>("keep-last", text);
        if (keep.keep_last < 1)
          throw ConfigError(
              fmt::format("--keep-last is {}, but must be at least 1", keep.keep_last));
      }};
  const OptionGroup options{
      .title = "Options",
      .options = {keep_last,
                  number("keep-every", "M", "those of every so many steps stay as well; 0: none do",
                         keep.keep_every),
                  flag("dry-run", "tell what would be removed, and remove nothing", dry_run),
                  flag("json", "tell it as one JSON object", json)}};
  const auto paths = read_paths(prune, arguments, options);
  if (!paths) return 0;
  if (keep.keep_last == 0)
    throw ConfigError("checkpoint prune needs --keep-last N, how many of the newest stay");
  if (keep.keep_every < 0)
    throw ConfigError(
        fmt::format("--keep-every is {}, but must be 0 or a number of steps", keep.keep_every));
  const fs::path run = paths->front();
  require_run(run);
  std::vector<Sized> old = sizes_of(checkpoint::checkpoints_to_prune(run, keep));
  std::vector<fs::path> kept = checkpoint::list_checkpoints(run);
  std::erase_if(kept, [&old](const fs::path& path) {
    return std::ranges::find(old, path, &Sized::path) != old.end();
  });
  if (!dry_run) retire(old);
  print(json ? json_of(old, kept, dry_run) : text_of(old, kept.size(), dry_run));
  bool is_done = true;
  for (const Sized& checkpoint : old) {
    if (checkpoint.error.empty()) continue;
    complain(checkpoint.error);
    is_done = false;
  }
  return is_done ? 0 : exit_failure;
}

}  // namespace shardmix::cli
