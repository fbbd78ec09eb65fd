#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checkpoint/run_directory.hpp"
#include "cli/checkpoint_tools.hpp"
#include "cli/progress_line.hpp"
#include "cli/setters.hpp"
#include "shardmix/checkpoints.hpp"
#include "train/format.hpp"

namespace shardmix::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr Tool verify{.name = "verify",
                      .help = R"(Usage: shardmix checkpoint verify PATH [--all] [--quiet] [--json]

Reads every byte of a checkpoint, compares sizes and checksums with its manifest, and makes sure that
its files hold each element of each parameter once. PATH is a checkpoint's directory, or a run's, for
its newest one.

{}
Examples:
  shardmix checkpoint verify run
  shardmix checkpoint verify run --all --quiet && rsync -a run backup/
  shardmix checkpoint verify run/step_000012000 --json

Exit codes: 0 all is good; 1 something is damaged, or there is no checkpoint; 2 an option makes no sense.
)",
                      .paths = 1,
                      .needs = "a checkpoint's or a run's directory"};

/// The checkpoints that are asked for. One that stands alone is all that is in its place.
std::vector<fs::path> find_all(const fs::path& path, bool all) {
  const fs::path newest = checkpoint::find_checkpoint(path);
  return all && newest != path ? checkpoint::list_checkpoints(path) : std::vector{newest};
}

std::string text_of(const CheckpointVerdict& verdict) {
  std::string text = verdict.directory.string() + '\n';
  for (const CheckpointVerdict::File& file : verdict.files) {
    text += fmt::format("  {:<32}{:>10}  {}\n", file.name, train::format_bytes(file.bytes),
                        file.damage.empty() ? "good" : "DAMAGED");
  }
  return text + fmt::format("  {}\n", verdict.is_good() ? "all good" : "DAMAGED");
}

Json json_of(const CheckpointVerdict& verdict) {
  Json files = Json::array();
  for (const CheckpointVerdict::File& file : verdict.files) {
    files.push_back({{"name", file.name},
                     {"bytes", file.bytes},
                     {"good", file.damage.empty()},
                     {"damage", file.damage}});
  }
  return {{"directory", verdict.directory.string()},
          {"good", verdict.is_good()},
          {"damage", verdict.damage},
          {"files", std::move(files)}};
}

void complain_of(const CheckpointVerdict& verdict) {
  for (const CheckpointVerdict::File& file : verdict.files) {
    if (!file.damage.empty()) complain(file.damage);
  }
  if (!verdict.damage.empty()) complain(verdict.damage);
}

CheckpointVerdict verify_shown(const fs::path& path) {
  ProgressLine line("verifying " + path.filename().string());
  return verify_checkpoint(path, line.callback());
}

}  // namespace

int verify_tool(const Arguments& arguments) {
  bool all = false;
  bool quiet = false;
  bool json = false;
  const OptionGroup options{
      .title = "Options",
      .options = {flag("all", "each checkpoint of the run in PATH, not only its newest", all),
                  flag("quiet", "print nothing but what is wrong", quiet),
                  flag("json", "print one JSON object", json)}};
  const auto paths = read_paths(verify, arguments, options);
  if (!paths) return 0;
  bool good = true;
  Json checkpoints = Json::array();
  for (const fs::path& path : find_all(paths->front(), all)) {
    const CheckpointVerdict verdict = verify_shown(path);
    good = good && verdict.is_good();
    if (json) checkpoints.push_back(json_of(verdict));
    if (!json && !quiet) {
      print(text_of(verdict));
      std::fflush(stdout);
    }
    complain_of(verdict);
  }
  if (json) {
    print(Json{{"good", good}, {"checkpoints", std::move(checkpoints)}}.dump(
              2, ' ', false, Json::error_handler_t::replace) +
          '\n');
  }
  return good ? 0 : exit_failure;
}

}  // namespace shardmix::cli
