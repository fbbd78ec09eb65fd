#include "checkpoint/saver.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <array>
#include <chrono>
#include <functional>

#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/rule_json.hpp"
#include "checkpoint/shard_writer.hpp"
#include "checkpoint/view.hpp"
#include "comm/agree.hpp"
#include "shardmix/error.hpp"
#include "shardmix/version.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// All but what the files will be.
CheckpointInfo describe(const ShardedOptimizer::Impl& optimizer, std::string_view trainer_state) {
  CheckpointInfo info;
  info.created = fmt::format(
      "{:%FT%TZ}",
      fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
  info.shardmix_version = version();
  info.rule = name_of(optimizer.rule);
  info.rule_json = json_of(optimizer.rule).dump();
  info.clocks = optimizer.clocks;
  info.loss_scale = optimizer.loss_scale;
  if (optimizer.options.loss_scaling.growth_interval > 0)
    info.usable_steps = optimizer.usable_steps;
  info.world_size = optimizer.collectives.size();
  for (const optimizer::State s : optimizer::all_states) {
    if (optimizer.state.has(s)) info.states.emplace_back(name_of(s));
  }
  for (const Parameter& p : optimizer.parameters) {
    info.parameters.push_back(
        {.name = p.name, .shape = p.shape, .dtype = p.dtype, .trainable = p.group.trainable});
  }
  info.trainer_state = trainer_state;
  return info;
}

/// What crashed or failed saves left behind.
void remove_leftovers(const fs::path& run_directory) {
  for (const auto& entry : fs::directory_iterator(run_directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".step_") || name.starts_with("latest.tmp-")) fs::remove_all(entry.path());
  }
}

/// Work of rank 0 with files, whose errors are all of one type.
void on_root(comm::Collectives& collectives, const std::function<void()>& work) {
  comm::agreed(collectives, [&] {
    if (collectives.rank() != 0) return;
    try {
      work();
    } catch (const fs::filesystem_error& error) {
      throw CheckpointError(error.what());
    }
  });
}

/// All ranks' bytes together must fit, as they do where all see one file system.
void require_room(comm::Collectives& collectives, const fs::path& directory, std::int64_t bytes) {
  std::array<std::int64_t, 1> total{bytes};
  collectives.all_reduce_sum(total);
  on_root(collectives, [&] {
    const std::int64_t room = free_bytes(directory);
    if (total[0] <= room) return;
    throw CheckpointError(
        fmt::format("a checkpoint takes {} bytes, but '{}' has room for {}; free some, or keep "
                    "fewer checkpoints",
                    total[0], directory.string(), room));
  });
}

/// The temporary directory, made by rank 0 and known to all.
fs::path make_temporary(comm::Collectives& collectives, const fs::path& run_directory,
                        const std::string& name) {
  std::array<char, 16> suffix{};
  on_root(collectives, [&] {
    make_directories(run_directory);
    remove_leftovers(run_directory);
    unique_suffix().copy(suffix.data(), suffix.size());
    fs::create_directory(
        run_directory /
        fmt::format(".{}.tmp-{}", name, std::string_view(suffix.data(), suffix.size())));
  });
  collectives.broadcast(std::as_writable_bytes(std::span(suffix)), 0);
  return run_directory /
         fmt::format(".{}.tmp-{}", name, std::string_view(suffix.data(), suffix.size()));
}

/// The index of each file, or none where a view of them would take too long.
std::vector<ShardIndex> gather_indices(comm::Collectives& collectives, const CheckpointInfo& info,
                                       const ShardIndex& own) {
  std::array<std::int64_t, 1> boxes{view_boxes(info, own)};
  collectives.all_reduce_sum(boxes);
  if (boxes[0] > most_view_boxes) return {};
  const std::vector<std::string> rows = collectives.all_gather(to_text(own.rows));
  const std::vector<std::string> frozen_rows = collectives.all_gather(to_text(own.frozen_rows));
  std::vector<ShardIndex> indices;
  for (std::size_t r = 0; r < rows.size(); ++r)
    indices.push_back({.rows = to_rows(rows[r]), .frozen_rows = to_rows(frozen_rows[r])});
  return indices;
}

}  // namespace

Save::Save(ShardedOptimizer::Impl& optimizer, const fs::path& run_directory,
           const CheckpointOptions& options, std::string_view trainer_state,
           const ShardSource& source)
    : collectives_(optimizer.collectives),
      run_directory_(run_directory),
      options_(options),
      info_(describe(optimizer, trainer_state)),
      memory_(optimizer.state.memory()),
      temporary_(make_temporary(collectives_, run_directory, checkpoint_name(info_.clocks.step))) {
  try {
    require_room(collectives_, run_directory_, expected_bytes(source));
  } catch (...) {
    remove_temporary();
    throw;
  }
}

Save::~Save() {
  if (thread_.joinable()) thread_.join();
  if (std::uncaught_exceptions() == 0) remove_temporary();
}

/// Where it was renamed there is nothing left to remove.
void Save::remove_temporary() noexcept {
  std::error_code ignored;
  if (collectives_.rank() == 0 && !keeps_temporary_) fs::remove_all(temporary_, ignored);
}

void Save::attempt(const std::function<void()>& work) noexcept {
  try {
    work();
  } catch (const std::exception& error) {  // no memory for the copy, say: training may go on
    error_ = std::make_exception_ptr(CheckpointError(error.what()));
  }
}

void Save::write(const ShardSource& source) {
  attempt([&] {
    file_ = write_shard(temporary_ / shard_name(collectives_.rank(), collectives_.size()), source);
    index_ = {.rows = source.rows(), .frozen_rows = source.frozen_rows()};
  });
  is_written_ = true;
}

std::shared_future<void> Save::begin_writing(std::unique_ptr<ShardSource> source, Snapshot& copy) {
  std::promise<void> copied;
  std::shared_future<void> done = copied.get_future().share();
  thread_ =
      std::thread([this, source = std::move(source), &copy, copied = std::move(copied)]() mutable {
        attempt([&] { copy.take(*source); });
        copied.set_value();
        if (error_)
          is_written_ = true;
        else
          write(copy);
      });
  return done;
}

fs::path Save::commit() {
  if (thread_.joinable()) thread_.join();
  const fs::path final_directory = run_directory_ / checkpoint_name(info_.clocks.step);
  try {
    comm::agreed(collectives_, [&] {
      if (error_) std::rethrow_exception(error_);
    });
    for (const std::string& text :
         collectives_.all_gather(part_text({.file = file_, .memory = memory_}))) {
      Part part = parse_part(text);
      info_.files.push_back(std::move(part.file));
      info_.memory.push_back(part.memory);
    }
    const std::vector<ShardIndex> indices = gather_indices(collectives_, info_, index_);
    on_root(collectives_, [&] {
      if (!indices.empty()) info_.view = write_view(temporary_, info_, indices);
      write_atomically(temporary_ / manifest_name, manifest_text(info_));
      // Where it fails from now on, the old checkpoint of this step may bear the temporary's name.
      keeps_temporary_ = true;
      publish_directory(temporary_, final_directory);
      try {
        point_link(run_directory_ / "latest", final_directory.filename());
        prune_checkpoints(run_directory_, options_);
      } catch (const CheckpointError& error) {
        throw CheckpointError(
            fmt::format("'{}' is complete, but 'latest' or an older checkpoint is as it was: {}",
                        final_directory.string(), error.what()));
      }
    });
  } catch (...) {
    remove_temporary();
    throw;
  }
  return final_directory;
}

}  // namespace shardmix::checkpoint
