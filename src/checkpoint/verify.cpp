#include <algorithm>

#include "checkpoint/contents.hpp"
#include "checkpoint/run_directory.hpp"
#include "checkpoint/view.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace checkpoint {
namespace {

/// A file, or the view, by itself.
CheckpointVerdict::File verdict_on(const std::string& name, std::int64_t bytes,
                                   const std::function<void()>& verify) {
  CheckpointVerdict::File verdict{.name = name, .bytes = bytes};
  try {
    verify();
  } catch (const CheckpointError& error) {
    verdict.damage = error.what();
  }
  return verdict;
}

}  // namespace
}  // namespace checkpoint

bool CheckpointVerdict::is_good() const noexcept {
  return damage.empty() &&
         std::ranges::all_of(files, [](const File& file) { return file.damage.empty(); });
}

CheckpointVerdict verify_checkpoint(const std::filesystem::path& path,
                                    const CheckpointProgress& progress) {
  CheckpointVerdict verdict{.directory = checkpoint::find_checkpoint(path)};
  checkpoint::OpenCheckpoint open;
  try {
    open.info = inspect_checkpoint(verdict.directory);
  } catch (const CheckpointError& error) {
    verdict.damage = error.what();
    return verdict;
  }
  const CheckpointInfo& info = open.info;
  std::int64_t total = info.view ? info.view->bytes : 0;
  for (const CheckpointFile& file : info.files) total += file.bytes;
  std::int64_t done = 0;
  const auto add = [&](std::int64_t bytes) {
    done += bytes;
    if (progress) progress(done, total);
  };
  std::int64_t before = 0;  // bytes of the files that are done
  for (const CheckpointFile& file : info.files) {
    verdict.files.push_back(checkpoint::verdict_on(file.name, file.bytes, [&] {
      checkpoint::verify_file(info.directory, file, add);
      open.indices.push_back(checkpoint::read_index(info.directory, file));
    }));
    done = before += file.bytes;
  }
  if (info.view) {
    verdict.files.push_back(checkpoint::verdict_on(info.view->name, info.view->bytes, [&] {
      checkpoint::verify_view(info.directory, *info.view, add);
    }));
  }
  if (!verdict.is_good()) return verdict;
  try {
    checkpoint::require_complete(open);
  } catch (const CheckpointError& error) {
    verdict.damage = error.what();
  }
  return verdict;
}

}  // namespace shardmix
