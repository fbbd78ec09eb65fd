#include "checkpoint/file_group.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ranges>

#include "checkpoint/file_ranks.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/shard_writer.hpp"
#include "comm/group.hpp"
#include "comm/topology.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

/// What another rank hands over.
class HandedOver final : public ShardSource {
 public:
  HandedOver(ShardContents contents, comm::NodeStream& stream)
      : ShardSource(std::move(contents)), stream_(stream) {}

  /// Arrays and elements come in their order alone.
  void copy(std::size_t /*array*/, std::int64_t /*begin*/, std::span<float> to) const override {
    stream_.take(std::as_writable_bytes(to));
  }

 private:
  comm::NodeStream& stream_;
};

/// Another one, until the writing is stopped.
class Stoppable final : public ShardSource {
 public:
  Stoppable(const ShardSource& inner, const std::atomic<bool>& is_stopped)
      : ShardSource(inner.contents()), inner_(inner), is_stopped_(is_stopped) {}

  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override {
    if (is_stopped_) throw CheckpointError("the save was given up");
    inner_.copy(array, begin, to);
  }

 private:
  const ShardSource& inner_;
  const std::atomic<bool>& is_stopped_;
};

void hand_over(const ShardSource& source, comm::NodeStream& stream) {
  for (std::size_t a = 0; a < source.contents().arrays.size(); ++a) {
    const std::int64_t elements = source.contents().arrays[a].elements;
    for (std::int64_t begin = 0; begin < elements;) {
      stream.give([&](std::span<std::byte> room) {
        const std::int64_t count = std::min(elements - begin, std::ssize(room) / 4);
        source.copy(a, begin,
                    {reinterpret_cast<float*>(room.data()), static_cast<std::size_t>(count)});
        begin += count;
        return 4 * count;
      });
    }
  }
}

}  // namespace

FileGroup::FileGroup(comm::Collectives& collectives, int ranks_per_file)
    : rank_(collectives.rank()) {
  const comm::Topology& topology = collectives.group().topology();
  const auto files = ranks_of_files(topology, ranks_per_file);
  const auto own = std::ranges::find_if(
      files, [&](const auto& ranks) { return std::ranges::find(ranks, rank_) != ranks.end(); });
  file_name_ = shard_name(static_cast<int>(own - files.begin()), static_cast<int>(files.size()));
  ranks_ = *own;
  writes_ = ranks_.front() == rank_;
  if (ranks_per_file == 1) return;
  try {
    memory_ = std::make_unique<comm::NodeMemory>(collectives);
    shared_ = memory_->allocate(comm::NodeStream::memory_bytes);
  } catch (const CommError& error) {
    if (collectives.group().watch().over()) throw;
    throw CheckpointError(
        fmt::format("{}; so does a file for each rank (ranks_per_file 1)", error.what()));
  }
  const std::vector<std::byte*> views =
      memory_->views(shared_.data(), comm::NodeStream::memory_bytes);
  for (const int rank : ranks_ | std::views::drop(1)) {
    if (!writes_ && rank != rank_) continue;
    streams_.push_back(std::make_unique<comm::NodeStream>(
        views[static_cast<std::size_t>(rank % topology.local_size)],
        collectives.group().watch().deadline()));
  }
}

std::optional<CheckpointFile> FileGroup::write(const std::filesystem::path& directory,
                                               const ShardSource& own,
                                               const std::vector<ShardContents>& contents) {
  if (!writes_) {
    hand_over(own, *streams_.front());
    return std::nullopt;
  }
  std::vector<HandedOver> others;
  for (std::size_t i = 0; i < streams_.size(); ++i)
    others.emplace_back(contents[i + 1], *streams_[i]);
  const Stoppable stoppable(own, is_stopped_);
  std::vector<const ShardSource*> all{&stoppable};
  for (const HandedOver& other : others) all.push_back(&other);
  return write_shard(directory / file_name_, JoinedShards(all));
}

void FileGroup::stop(std::string_view error) noexcept {
  is_stopped_ = true;
  for (const auto& stream : streams_) stream->close(fmt::format("rank {}: {}", rank_, error));
}

}  // namespace shardmix::checkpoint
