#include "shardmix/checkpoints.hpp"

#include <fmt/format.h>

#include "checkpoint/loader.hpp"
#include "checkpoint/manifest.hpp"
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
  std::string load_note;

  std::int64_t load(const CheckpointInfo& info, ShardedOptimizer& optimizer) {
    load_note = checkpoint::load(optimizer.impl(), info);
    trainer_state = info.trainer_state;
    return info.clocks.step;
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
    : impl_(new Impl{runtime, std::move(directory), options, {}, {}}) {
  if (options.keep_last < 0) {
    throw ConfigError(fmt::format("keep_last must be at least 1, or 0 to keep all, but is {}",
                                  options.keep_last));
  }
}
Checkpoints::~Checkpoints() = default;
Checkpoints::Checkpoints(Checkpoints&&) noexcept = default;

fs::path Checkpoints::save(ShardedOptimizer& optimizer, std::string_view trainer_state) {
  return checkpoint::save(optimizer.impl(), impl_->directory, impl_->options, trainer_state);
}

std::int64_t Checkpoints::resume(ShardedOptimizer& optimizer) {
  const auto candidates = impl_->candidates();
  for (const fs::path& path : candidates) {
    CheckpointInfo info;
    try {
      info = checkpoint::verify(impl_->runtime.impl().collectives(), path);
    } catch (const CheckpointError& error) {
      impl_->runtime.log("passed over {}: {}", path.filename().string(), error.what());
      continue;
    }
    return impl_->load(info, optimizer);
  }
  if (!candidates.empty()) {
    throw CheckpointError(
        fmt::format("none of the {} checkpoints in '{}' can be used; see the lines above, or start "
                    "anew in another directory",
                    candidates.size(), impl_->directory.string()));
  }
  return 0;
}

std::int64_t Checkpoints::load(const fs::path& path, ShardedOptimizer& optimizer) {
  comm::Collectives& collectives = impl_->runtime.impl().collectives();
  fs::path directory;
  comm::agreed(collectives, [&] { directory = checkpoint::find_checkpoint(path); });
  return impl_->load(checkpoint::verify(collectives, directory), optimizer);
}

const std::string& Checkpoints::trainer_state() const noexcept {
  return impl_->trainer_state;
}
const std::string& Checkpoints::load_note() const noexcept {
  return impl_->load_note;
}

}  // namespace shardmix
