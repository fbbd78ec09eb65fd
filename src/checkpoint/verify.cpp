#include <algorithm>

#include "checkpoint/contents.hpp"
#include "checkpoint/manifest.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace checkpoint {
namespace {

/// Each file by itself. Its index goes to `indices` where it is good.
CheckpointVerdict::File verdict_on(const CheckpointInfo& info, const CheckpointFile& file,
                                   std::vector<ShardIndex>& indices,
                                   const std::function<void(std::int64_t)>& progress) {
  CheckpointVerdict::File verdict{.name = file.name, .bytes = file.bytes};
  try {
    verify_file(info.directory, file, progress);
    indices.push_back(read_index(info.directory, file));
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
  std::int64_t total = 0;
  for (const CheckpointFile& file : open.info.files) total += file.bytes;
  std::int64_t before = 0;  // bytes of the files that are done
  for (const CheckpointFile& file : open.info.files) {
    std::int64_t done = before;
    verdict.files.push_back(
        checkpoint::verdict_on(open.info, file, open.indices, [&](std::int64_t bytes) {
          done += bytes;
          if (progress) progress(done, total);
        }));
    before += file.bytes;
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
