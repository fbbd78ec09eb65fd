#include "checkpoint/reshard.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/file_group.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/shard_writer.hpp"
#include "checkpoint/values.hpp"
#include "checkpoint/view.hpp"
#include "shardmix/error.hpp"
#include "shardmix/version.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

void require_sensible(const ReshardOptions& options) {
  if (options.ranks < 1)
    throw ConfigError(fmt::format("ranks must be at least 1, but is {}", options.ranks));
  if (options.ranks_per_file < 1 || options.ranks_per_file > options.ranks) {
    throw ConfigError(fmt::format("ranks_per_file must be from 1 to the {} ranks, but is {}",
                                  options.ranks, options.ranks_per_file));
  }
}

/// Throws the first damage.
OpenCheckpoint open_verified(const fs::path& directory, const CheckpointProgress& progress) {
  const CheckpointVerdict verdict = verify_checkpoint(directory, progress);
  if (!verdict.damage.empty()) throw CheckpointError(verdict.damage);
  for (const CheckpointVerdict::File& file : verdict.files) {
    if (!file.damage.empty()) throw CheckpointError(file.damage);
  }
  return open_alone(directory);
}

layout::Layout layout_of(const CheckpointInfo& info, std::int64_t bucket_elements) {
  Parameters parameters;
  for (const CheckpointParameter& p : info.parameters)
    parameters.add(p.name, p.shape, p.dtype, {.trainable = p.trainable});
  return {parameters, bucket_elements};
}

/// What a rank would have stored, read from the files that are there.
class StoredShard final : public ShardSource {
 public:
  /// `read` is told of each part's bytes.
  StoredShard(ShardContents contents, const CheckpointInfo& info, ValueReader& reader,
              const std::function<void(std::int64_t)>& read)
      : ShardSource(std::move(contents)), info_(info), reader_(reader), read_(read) {}

  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override {
    read_(4 * std::ssize(to));
    const bool is_state = array < info_.states.size();
    const std::string_view state = is_state ? info_.states[array] : master_name;
    const std::vector<IndexRow>& rows = is_state ? contents_.rows : contents_.frozen_rows;
    auto row = std::ranges::upper_bound(rows, begin, {}, &IndexRow::here) - 1;
    for (; !to.empty(); ++row) {
      const std::int64_t skipped = begin - row->here;
      const std::span part =
          to.first(static_cast<std::size_t>(std::min(row->count - skipped, std::ssize(to))));
      reader_.read(static_cast<std::size_t>(row->parameter), state, row->offset + skipped, part);
      to = to.subspan(part.size());
      begin += std::ssize(part);
    }
  }

 private:
  const CheckpointInfo& info_;
  ValueReader& reader_;
  const std::function<void(std::int64_t)>& read_;
};

/// The contents of each file, rank by rank.
std::vector<std::vector<ShardContents>> files_of(const CheckpointInfo& info,
                                                 const ReshardOptions& options) {
  const layout::Layout layout = layout_of(info, options.bucket_elements);
  std::vector<std::vector<ShardContents>> files;
  for (const std::vector<int>& ranks : ranks_of_files(
           {.ranks = options.ranks, .local_size = options.ranks}, options.ranks_per_file)) {
    files.emplace_back();
    for (const int rank : ranks)
      files.back().push_back(contents_of(layout, info.states, rank, options.ranks));
  }
  return files;
}

}  // namespace

CheckpointInfo reshard_checkpoint(const fs::path& checkpoint, const fs::path& run_directory,
                                  const ReshardOptions& options,
                                  const CheckpointProgress& progress) {
  require_sensible(options);
  const fs::path from = find_checkpoint(checkpoint);
  CheckpointInfo info = inspect_checkpoint(from);
  const fs::path to = run_directory / checkpoint_name(info.clocks.step);
  if (fs::exists(fs::symlink_status(to))) {
    throw ConfigError(fmt::format("'{}' is there already; choose another directory", to.string()));
  }
  const std::int64_t bytes = value_bytes(info, info.states);
  const auto half = [&](std::int64_t before) -> CheckpointProgress {
    if (!progress) return {};
    return [&progress, before](std::int64_t done, std::int64_t total) {
      progress(before * total + done, 2 * total);
    };
  };
  const OpenCheckpoint open = open_verified(from, half(0));
  fs::create_directories(run_directory);
  sync_path_to(run_directory);
  if (const std::int64_t room = free_bytes(run_directory); bytes > room) {
    throw CheckpointError(fmt::format("the checkpoint takes {} bytes, but '{}' has room for {}",
                                      bytes, run_directory.string(), room));
  }
  const Temporary temporary(to);
  fs::create_directory(temporary.path());
  const auto files = files_of(info, options);
  ValueReader reader(open);
  info.directory = to;
  info.shardmix_version = version();
  info.world_size = options.ranks;
  info.memory.clear();  // of ranks that never were
  info.files.clear();
  std::vector<ViewedFile> viewed;
  std::int64_t done = 0;
  const CheckpointProgress second_half = half(1);
  const std::function<void(std::int64_t)> add = [&](std::int64_t read) {
    done += read;
    if (second_half) second_half(done, bytes);
  };
  for (std::size_t f = 0; f < files.size(); ++f) {
    std::vector<StoredShard> shards;
    for (const ShardContents& contents : files[f])
      shards.emplace_back(contents, open.info, reader, add);
    std::vector<const ShardSource*> parts;
    for (const StoredShard& shard : shards) parts.push_back(&shard);
    const std::string name = shard_name(static_cast<int>(f), static_cast<int>(files.size()));
    info.files.push_back(write_shard(temporary.path() / name, JoinedShards(parts)));
    viewed.push_back({name, joined(files[f])});
  }
  info.view = write_view(temporary.path(), info, viewed);
  write_atomically(temporary.path() / manifest_name, manifest_text(info));
  publish_directory(temporary.path(), to);
  point_link(run_directory / "latest", list_checkpoints(run_directory).front().filename());
  return info;
}

}  // namespace shardmix::checkpoint
