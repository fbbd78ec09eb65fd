#include "checkpoint/file_group.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/manifest.hpp"
#include "checkpoint/shard_writer.hpp"
#include "comm/group.hpp"
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
  if (ranks_per_file == 1) {
    ranks_ = {collectives.rank()};
    file_name_ = shard_name(collectives.rank(), collectives.size());
    return;
  }
  const int first = topology.local_rank / ranks_per_file * ranks_per_file;
  const int end = std::min(first + ranks_per_file, topology.local_size);
  for (int local = first; local < end; ++local)
    ranks_.push_back(topology.rank_at(topology.node, local));
  const int files_of_node = (topology.local_size + ranks_per_file - 1) / ranks_per_file;
  file_name_ = shard_name(topology.node * files_of_node + first / ranks_per_file,
                          topology.nodes * files_of_node);
  writes_ = topology.local_rank == first;
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
  const auto add = [&](int local) {
    streams_.push_back(std::make_unique<comm::NodeStream>(views[static_cast<std::size_t>(local)],
                                                          collectives.group().watch().deadline()));
  };
  if (writes_) {
    for (int local = first + 1; local < end; ++local) add(local);
  } else {
    add(topology.local_rank);
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
  std::vector<const ShardSource*> all{&own};
  for (const HandedOver& other : others) all.push_back(&other);
  return write_shard(directory / file_name_, JoinedShards(all));
}

void FileGroup::stop(std::string_view error) noexcept {
  for (const auto& stream : streams_) stream->close(fmt::format("rank {}: {}", rank_, error));
}

}  // namespace shardmix::checkpoint
