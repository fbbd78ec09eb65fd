#include "shardmix/checkpoints.hpp"

#include <fmt/format.h>

#include <array>

#include "checkpoint/loader.hpp"
#include "checkpoint/run_directory.hpp"
#include "checkpoint/saver.hpp"
#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"

namespace shardmix {

namespace fs = std::filesystem;

struct Checkpoints::Impl {
  Runtime& runtime;
  fs::path directory;
  CheckpointOptions options;
  std::string trainer_state;
  std::optional<SwitchReport> load_switch;
  checkpoint::Snapshot snapshot;
  std::unique_ptr<checkpoint::Save> save;  ///< the one under way; ends before the snapshot

  std::int64_t load(const checkpoint::OpenCheckpoint& open, ShardedOptimizer& optimizer,
                    const SwitchOptions& switching) {
    load_switch = checkpoint::load(optimizer.impl(), open, switching);
    trainer_state = open.info.trainer_state;
    return open.info.clocks.step;
  }

  [[nodiscard]] std::unique_ptr<checkpoint::Save> begin(ShardedOptimizer::Impl& optimizer,
                                                        std::string_view text) {
    return std::make_unique<checkpoint::Save>(optimizer, directory, options, text);
  }

  [[nodiscard]] fs::path commit() {
    const std::unique_ptr<checkpoint::Save> ending = std::move(save);
    return ending->commit();
  }

  /// Rank 0's list, so that all ranks try the same ones.
  [[nodiscard]] std::vector<fs::path> candidates() const {
    comm::Collectives& collectives = runtime.impl().collectives();
    std::vector<fs::path> all;
    comm::agreed(collectives, [&] {
      if (collectives.rank() == 0 && fs::exists(directory))
        all = checkpoint::list_checkpoints(directory);
    });
    std::string names;
    for (const fs::path& path : all) names += path.filename().string() + '\n';
    const std::string from_root = collectives.all_gather(names).front();
    all.clear();
    for (std::size_t begin = 0; begin < from_root.size();) {
      const std::size_t end = from_root.find('\n', begin);
      all.push_back(directory / from_root.substr(begin, end - begin));
      begin = end + 1;
    }
    return all;
  }
};

Checkpoints::Checkpoints(Runtime& runtime, fs::path directory, const CheckpointOptions& options)
    : impl_(new Impl{.runtime = runtime,
                     .directory = std::move(directory),
                     .options = options,
                     .trainer_state = {},
                     .load_switch = {},
                     .snapshot = {},
                     .save = nullptr}) {
  if (options.keep_last < 0) {
    throw ConfigError(fmt::format("keep_last must be at least 1, or 0 to keep all, but is {}",
                                  options.keep_last));
  }
  if (options.keep_every < 0) {
    throw ConfigError(
        fmt::format("keep_every must be a number of steps, or 0, but is {}", options.keep_every));
  }
  if (options.ranks_per_file < 1)
    throw ConfigError(
        fmt::format("ranks_per_file must be at least 1, but is {}", options.ranks_per_file));
  const comm::Topology& topology = runtime.impl().group->topology();
  if (options.ranks_per_file > 1 && !topology.regular) {
    throw ConfigError(
        fmt::format("ranks_per_file is {}, but here are {}: a file is of ranks that follow each "
                    "other on a node; place equally many on each (mpirun --map-by ppr:N:node), or "
                    "leave it at 1",
                    options.ranks_per_file, comm::describe(topology)));
  }
}
Checkpoints::~Checkpoints() = default;
Checkpoints::Checkpoints(Checkpoints&&) noexcept = default;

fs::path Checkpoints::save(ShardedOptimizer& optimizer, std::string_view trainer_state) {
  (void)finish();
  ShardedOptimizer::Impl& from = optimizer.impl();
  from.wait_all();
  from.collectives.wait_for_device();
  const auto save = impl_->begin(from, trainer_state);
  save->begin_writing(
      checkpoint::live_shard(from.state, impl_->runtime.rank(), impl_->runtime.size()));
  return save->commit();
}

void Checkpoints::begin_save(ShardedOptimizer& optimizer, std::string_view trainer_state) {
  (void)finish();
  ShardedOptimizer::Impl& from = optimizer.impl();
  from.wait_all();
  from.collectives.wait_for_device();
  impl_->save = impl_->begin(from, trainer_state);
  from.reader = impl_->save->begin_writing(
      checkpoint::live_shard(from.state, impl_->runtime.rank(), impl_->runtime.size()),
      impl_->snapshot);
}

std::optional<fs::path> Checkpoints::poll() {
  if (!impl_->save) return std::nullopt;
  std::array<std::int64_t, 1> written{impl_->save->is_written() ? 1 : 0};
  impl_->runtime.impl().collectives().all_reduce_min(written);
  if (written[0] == 0) return std::nullopt;
  return impl_->commit();
}

std::optional<fs::path> Checkpoints::finish() {
  if (!impl_->save) return std::nullopt;
  return impl_->commit();
}

std::int64_t Checkpoints::resume(ShardedOptimizer& optimizer, const SwitchOptions& options) {
  const auto candidates = impl_->candidates();
  for (const fs::path& path : candidates) {
    bool is_fitting = true;
    try {
      const auto open = checkpoint::open_checkpoint(impl_->runtime.impl().collectives(), path);
      is_fitting = false;
      checkpoint::require_fitting(optimizer.impl(), open, options);
      is_fitting = true;
      return impl_->load(open, optimizer, options);
    } catch (const CheckpointError& error) {
      if (!is_fitting) throw;
      impl_->runtime.log("passed over {}: {}", path.filename().string(), error.what());
    }
  }
  if (!candidates.empty()) {
    throw CheckpointError(
        fmt::format("none of the {} checkpoints in '{}' can be used; see the lines above, or start "
                    "anew in another directory",
                    candidates.size(), impl_->directory.string()));
  }
  return 0;
}

std::int64_t Checkpoints::load(const fs::path& path, ShardedOptimizer& optimizer,
                               const SwitchOptions& options) {
  comm::Collectives& collectives = impl_->runtime.impl().collectives();
  fs::path directory;
  comm::agreed(collectives, [&] { directory = checkpoint::find_checkpoint(path); });
  const auto open = checkpoint::open_checkpoint(collectives, directory);
  checkpoint::require_fitting(optimizer.impl(), open, options);
  return impl_->load(open, optimizer, options);
}

const std::string& Checkpoints::trainer_state() const noexcept {
  return impl_->trainer_state;
}
const std::optional<SwitchReport>& Checkpoints::load_switch() const noexcept {
  return impl_->load_switch;
}

}  // namespace shardmix
