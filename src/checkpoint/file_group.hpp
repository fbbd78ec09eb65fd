#pragma once

/// Ranks that store their parts in one file. They are of one node, and the first of them writes:
/// the others hand their values over through memory, in the order of the file. So a file has one
/// writer whatever file system it lies on, and is hashed from front to back.

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/shard_source.hpp"
#include "comm/collectives.hpp"
#include "comm/node_memory.hpp"
#include "comm/node_stream.hpp"

namespace shardmix::checkpoint {

class FileGroup {
 public:
  /// Collective.
  FileGroup(comm::Collectives& collectives, int ranks_per_file);

  /// This rank's group, the one that writes in front.
  [[nodiscard]] const std::vector<int>& ranks() const noexcept { return ranks_; }

  /// Writes the group's file into `directory`, or hands over to the rank that does: then nothing is
  /// returned. `contents` are those of ranks(). From any thread; ends when all of the group call
  /// it, or one stops. Throws CheckpointError or CommError.
  std::optional<CheckpointFile> write(const std::filesystem::path& directory,
                                      const ShardSource& own,
                                      const std::vector<ShardContents>& contents);

  /// This rank writes no more, and the others of the group don't wait for it any more, and get this
  /// error. From any thread.
  void stop(std::string_view error) noexcept;

 private:
  int rank_;
  std::string file_name_;
  std::vector<int> ranks_;
  bool writes_ = true;
  std::atomic<bool> is_stopped_ = false;
  std::unique_ptr<comm::NodeMemory> memory_;  ///< null where each rank writes a file
  device::Buffer shared_;
  std::vector<std::unique_ptr<comm::NodeStream>> streams_;  ///< from the others, or to the writer
};

}  // namespace shardmix::checkpoint
