#include "checkpoint/saver.hpp"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <functional>

#include "checkpoint/file_ranks.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/rule_json.hpp"
#include "checkpoint/run_directory.hpp"
#include "checkpoint/shard_writer.hpp"
#include "checkpoint/view.hpp"
#include "comm/agree.hpp"
#include "comm/group.hpp"
#include "shardmix/error.hpp"
#include "shardmix/version.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// All but what the files will be.
CheckpointInfo describe(const ShardedOptimizer::Impl& optimizer, std::string_view trainer_state) {
  CheckpointInfo info;
  info.created = time_of_creation();
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

/// What crashed or failed saves left behind. One of them may have had a checkpoint's name, and may
/// still have it on the disk: it loses it there before its files go.
void remove_leftovers(const fs::path& run_directory) {
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(run_directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".step_") || name.starts_with("latest.tmp-"))
      leftovers.push_back(entry.path());
  }
  if (!leftovers.empty()) sync_directory(run_directory);
  for (const fs::path& path : leftovers) fs::remove_all(path);
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
  const auto temporary = [&] {
    return temporary_name(run_directory / name, std::string_view(suffix.data(), suffix.size()));
  };
  on_root(collectives, [&] {
    fs::create_directories(run_directory);
    if (list_checkpoints(run_directory).empty()) sync_path_to(run_directory);
    remove_leftovers(run_directory);
    unique_suffix().copy(suffix.data(), suffix.size());
    fs::create_directory(temporary());
  });
  collectives.broadcast(std::as_writable_bytes(std::span(suffix)), 0);
  return temporary();
}

}  // namespace

Save::Save(ShardedOptimizer::Impl& optimizer, const fs::path& run_directory,
           const CheckpointOptions& options, std::string_view trainer_state)
    : collectives_(optimizer.collectives),
      run_directory_(run_directory),
      options_(options),
      info_(describe(optimizer, trainer_state)),
      memory_(optimizer.state.memory()),
      layout_(optimizer.state.layout()),
      group_(collectives_, options.ranks_per_file),
      temporary_(make_temporary(collectives_, run_directory, checkpoint_name(info_.clocks.step))) {
  try {
    require_room(collectives_, run_directory_, expected_bytes(contents(collectives_.rank())));
  } catch (...) {
    remove_temporary();
    throw;
  }
}

Save::~Save() {
  group_.stop("the save is given up");
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
    group_.stop(error.what());
    error_ = std::make_exception_ptr(CheckpointError(error.what()));
  }
}

void Save::write(const ShardSource& source) {
  attempt([&] {
    std::vector<ShardContents> parts;
    for (const int rank : group_.ranks()) parts.push_back(contents(rank));
    file_ = group_.write(temporary_, source, parts);
    if (collectives_.rank() == 0) info_.view = write_view(temporary_, info_, viewed_files());
  });
}

ShardContents Save::contents(int rank) const {
  return contents_of(layout_, info_.states, rank, collectives_.size());
}

std::vector<ViewedFile> Save::viewed_files() const {
  const auto files = ranks_of_files(collectives_.group().topology(), options_.ranks_per_file);
  std::vector<ViewedFile> viewed;
  for (std::size_t f = 0; f < files.size(); ++f) {
    std::vector<ShardContents> parts;
    for (const int rank : files[f]) parts.push_back(contents(rank));
    viewed.push_back(
        {shard_name(static_cast<int>(f), static_cast<int>(files.size())), joined(parts)});
  }
  return viewed;
}

void Save::begin_writing(std::unique_ptr<ShardSource> source) {
  thread_ = std::thread([this, source = std::move(source)] {
    write(*source);
    is_written_ = true;
  });
}

std::shared_future<void> Save::begin_writing(std::unique_ptr<ShardSource> source, Snapshot& copy) {
  std::promise<void> copied;
  std::shared_future<void> done = copied.get_future().share();
  thread_ =
      std::thread([this, source = std::move(source), &copy, copied = std::move(copied)]() mutable {
        attempt([&] { copy.take(*source); });
        copied.set_value();
        if (!error_) write(copy);
        is_written_ = true;
      });
  return done;
}

void Save::await_writing() {
  while (!is_written_) {
    collectives_.group().watch().look("the checkpoint's files to be written");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  thread_.join();
}

fs::path Save::commit() {
  await_writing();
  const fs::path final_directory = run_directory_ / checkpoint_name(info_.clocks.step);
  try {
    comm::agreed(collectives_, [&] {
      if (error_) std::rethrow_exception(error_);
    });
    for (const std::string& text :
         collectives_.all_gather(part_text({.file = file_, .memory = memory_}))) {
      Part part = parse_part(text);
      if (part.file) info_.files.push_back(*std::move(part.file));
      info_.memory.push_back(part.memory);
    }
    on_root(collectives_, [&] {
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
