#include "checkpoint/run_directory.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace checkpoint {

namespace fs = std::filesystem;

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("step_{:09}", step);
}

std::vector<fs::path> list_checkpoints(const fs::path& directory) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step_") || name.size() > 5 + 18) continue;
    const std::string digits = name.substr(5);
    if (digits.empty() || !std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; }))
      continue;
    if (fs::exists(entry.path() / manifest_name))
      found.emplace_back(std::stoll(digits), entry.path());
  }
  std::ranges::sort(found, std::greater{});
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::vector<fs::path> checkpoints_to_prune(const fs::path& directory,
                                           const CheckpointOptions& options) {
  std::vector<fs::path> old;
  if (options.keep_last == 0) return old;
  const auto all = list_checkpoints(directory);
  for (std::size_t i = all.size(); i-- > static_cast<std::size_t>(options.keep_last);) {
    const std::int64_t step = std::stoll(all[i].filename().string().substr(5));
    if (options.keep_every > 0 && step % options.keep_every == 0) continue;
    old.push_back(all[i]);
  }
  return old;
}

std::vector<fs::path> prune_checkpoints(const fs::path& directory,
                                        const CheckpointOptions& options) {
  std::vector<fs::path> old = checkpoints_to_prune(directory, options);
  for (const fs::path& path : old) retire_directory(path);
  return old;
}

fs::path find_checkpoint(const fs::path& path) {
  if (!fs::is_directory(path))
    throw CheckpointError(fmt::format("there is no checkpoint directory '{}'", path.string()));
  if (fs::exists(path / manifest_name)) return path;
  const auto all = list_checkpoints(path);
  if (all.empty()) {
    throw CheckpointError(
        fmt::format("'{}' is no checkpoint and holds none: expected a {} in it, or directories "
                    "named step_N that have one",
                    path.string(), manifest_name));
  }
  return all.front();
}

}  // namespace checkpoint

CheckpointInfo inspect_checkpoint(const std::filesystem::path& path) {
  const auto directory = checkpoint::find_checkpoint(path);
  return checkpoint::parse_manifest(checkpoint::read_manifest(directory), directory);
}

}  // namespace shardmix
