#include "checkpoint/sole_writer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/file_ranks.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/run_directory.hpp"
#include "checkpoint/shard_writer.hpp"
#include "checkpoint/values.hpp"
#include "checkpoint/view.hpp"
#include "shardmix/error.hpp"
#include "shardmix/version.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

layout::Layout layout_of(const CheckpointInfo& info, std::int64_t bucket_elements) {
  Parameters parameters;
  for (const CheckpointParameter& p : info.parameters)
    parameters.add(p.name, p.shape, p.dtype, {.trainable = p.trainable});
  return {parameters, bucket_elements};
}

/// What a rank would have stored.
class GivenShard final : public ShardSource {
 public:
  GivenShard(ShardContents contents, const CheckpointInfo& info, const GiveValues& give)
      : ShardSource(std::move(contents)), info_(info), give_(give) {}

  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override {
    const bool is_state = array < info_.states.size();
    const std::string_view state = is_state ? info_.states[array] : master_name;
    const std::vector<IndexRow>& rows = is_state ? contents_.rows : contents_.frozen_rows;
    auto row = std::ranges::upper_bound(rows, begin, {}, &IndexRow::here) - 1;
    for (; !to.empty(); ++row) {
      const std::int64_t skipped = begin - row->here;
      const std::span part =
          to.first(static_cast<std::size_t>(std::min(row->count - skipped, std::ssize(to))));
      give_(static_cast<std::size_t>(row->parameter), state, row->offset + skipped, part);
      to = to.subspan(part.size());
      begin += std::ssize(part);
    }
  }

 private:
  const CheckpointInfo& info_;
  const GiveValues& give_;
};

/// The contents of each file, rank by rank.
std::vector<std::vector<ShardContents>> files_of(const CheckpointInfo& info, const Cut& cut) {
  const layout::Layout layout = layout_of(info, cut.bucket_elements);
  std::vector<std::vector<ShardContents>> files;
  for (const std::vector<int>& ranks :
       ranks_of_files({.ranks = cut.ranks, .local_size = cut.ranks}, cut.ranks_per_file)) {
    files.emplace_back();
    for (const int rank : ranks)
      files.back().push_back(contents_of(layout, info.states, rank, cut.ranks));
  }
  return files;
}

void make_run_directory(const fs::path& run_directory, std::int64_t bytes) {
  fs::create_directories(run_directory);
  sync_path_to(run_directory);
  if (const std::int64_t room = free_bytes(run_directory); bytes > room) {
    throw CheckpointError(fmt::format("the checkpoint takes {} bytes, but '{}' has room for {}",
                                      bytes, run_directory.string(), room));
  }
}

}  // namespace

void require_sensible(const Cut& cut, const fs::path& run_directory, std::int64_t step) {
  if (cut.ranks < 1)
    throw ConfigError(fmt::format("ranks must be at least 1, but is {}", cut.ranks));
  if (cut.ranks_per_file < 1 || cut.ranks_per_file > cut.ranks) {
    throw ConfigError(fmt::format("ranks_per_file must be from 1 to the {} ranks, but is {}",
                                  cut.ranks, cut.ranks_per_file));
  }
  const fs::path to = run_directory / checkpoint_name(step);
  if (fs::exists(fs::symlink_status(to))) {
    throw ConfigError(fmt::format("'{}' is there already; choose another directory", to.string()));
  }
}

CheckpointInfo write_alone(CheckpointInfo info, const fs::path& run_directory, const Cut& cut,
                           const GiveValues& give, const CheckpointProgress& progress) {
  require_sensible(cut, run_directory, info.clocks.step);
  const auto files = files_of(info, cut);
  const std::int64_t bytes = value_bytes(info, info.states);
  make_run_directory(run_directory, bytes);
  const fs::path to = run_directory / checkpoint_name(info.clocks.step);
  const Temporary temporary(to);
  fs::create_directory(temporary.path());
  info.directory = to;
  info.shardmix_version = version();
  info.world_size = cut.ranks;
  info.memory.clear();  // of ranks that never were
  info.files.clear();
  std::int64_t done = 0;
  const GiveValues give_and_tell = [&](std::size_t parameter, std::string_view state,
                                       std::int64_t offset, std::span<float> values) {
    give(parameter, state, offset, values);
    done += 4 * std::ssize(values);
    if (progress) progress(done, bytes);
  };
  std::vector<ViewedFile> viewed;
  for (std::size_t f = 0; f < files.size(); ++f) {
    std::vector<GivenShard> shards;
    for (const ShardContents& contents : files[f])
      shards.emplace_back(contents, info, give_and_tell);
    std::vector<const ShardSource*> parts;
    for (const GivenShard& shard : shards) parts.push_back(&shard);
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
