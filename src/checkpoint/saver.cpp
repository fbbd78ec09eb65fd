#include "checkpoint/saver.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <array>
#include <chrono>
#include <nlohmann/json.hpp>

#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/rule_json.hpp"
#include "checkpoint/shard_file.hpp"
#include "comm/agree.hpp"
#include "shardmix/version.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// What one rank tells the others of the file it wrote.
struct Written {
  Digest digest;
  MemoryReport memory;
};

std::string encode(const Written& w) {
  const MemoryReport& m = w.memory;
  return fmt::format("{} {} {} {} {} {} {} {} {}", w.digest.bytes, w.digest.xxh3_128, m.parameter,
                     m.gradient, m.reduced_gradient, m.master, m.m1, m.m2, m.v);
}

Written decode(const std::string& text) {
  std::istringstream in(text);
  Written w;
  MemoryReport& m = w.memory;
  in >> w.digest.bytes >> w.digest.xxh3_128 >> m.parameter >> m.gradient >> m.reduced_gradient >>
      m.master >> m.m1 >> m.m2 >> m.v;
  return w;
}

CheckpointInfo describe(const ShardedOptimizer::Impl& optimizer,
                        const std::vector<std::string>& written, std::string_view trainer_state) {
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
  for (int r = 0; r < info.world_size; ++r) {
    const Written w = decode(written[static_cast<std::size_t>(r)]);
    info.files.push_back({.name = shard_name(r, info.world_size),
                          .bytes = w.digest.bytes,
                          .xxh3_128 = w.digest.xxh3_128});
    info.memory.push_back(w.memory);
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

void prune(const fs::path& run_directory, int keep_last) {
  if (keep_last == 0) return;
  const auto all = list_checkpoints(run_directory);
  for (std::size_t i = static_cast<std::size_t>(keep_last); i < all.size(); ++i)
    retire_directory(all[i]);
}

/// The temporary directory, made by rank 0 and known to all.
fs::path make_temporary(comm::Collectives& collectives, const fs::path& run_directory,
                        const std::string& name) {
  std::array<char, 16> suffix{};
  comm::agreed(collectives, [&] {
    if (collectives.rank() != 0) return;
    fs::create_directories(run_directory);
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

}  // namespace

fs::path save(ShardedOptimizer::Impl& optimizer, const fs::path& run_directory,
              const CheckpointOptions& options, std::string_view trainer_state) {
  comm::Collectives& collectives = optimizer.collectives;
  optimizer.wait_all();
  const std::string name = checkpoint_name(optimizer.clocks.step);
  const fs::path final_directory = run_directory / name;
  const fs::path temporary = make_temporary(collectives, run_directory, name);
  try {
    Written own;
    comm::agreed(collectives, [&] {
      const fs::path file = temporary / shard_name(collectives.rank(), collectives.size());
      write_shard(file, optimizer.state, collectives.rank(), collectives.size());
      sync(file);
      own = {.digest = digest_of(file), .memory = optimizer.state.memory()};
    });
    const auto written = collectives.all_gather(encode(own));
    comm::agreed(collectives, [&] {
      if (collectives.rank() != 0) return;
      write_atomically(temporary / manifest_name,
                       manifest_text(describe(optimizer, written, trainer_state)));
      publish_directory(temporary, final_directory);
      point_link(run_directory / "latest", name);
      prune(run_directory, options.keep_last);
    });
  } catch (...) {
    std::error_code ignored;
    if (collectives.rank() == 0) fs::remove_all(temporary, ignored);
    throw;
  }
  return final_directory;
}

}  // namespace shardmix::checkpoint
