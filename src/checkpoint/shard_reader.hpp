#pragma once

/// Reads a rank's file as its manifest describes it, and hands out nothing that it hasn't verified
/// the checksum of, or will have when it returns. All functions throw CheckpointError that names
/// the file.

#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "checkpoint/shard_format.hpp"

namespace shardmix::checkpoint {

struct ShardIndex {
  std::vector<IndexRow> rows;
  std::vector<IndexRow> frozen_rows;
};

/// The indices, from the file's head. Their rows follow each other and fill the arrays.
[[nodiscard]] ShardIndex read_index(const std::filesystem::path& directory,
                                    const CheckpointFile& file);

/// The array of this name, or null.
[[nodiscard]] const CheckpointArray* find_array(const CheckpointFile& file, std::string_view name);

/// A run of values that is wanted.
struct Run {
  std::int64_t offset = 0;  ///< in the file
  std::int64_t count = 0;   ///< elements
  std::function<void(std::int64_t begin, std::span<const float>)>
      take;  ///< gets them in order, in multiples of 256 until the last
};

/// The blocks that a set of runs lies in, by number; the head is number 0.
[[nodiscard]] std::vector<bool> blocks_of(const CheckpointFile& file, const std::vector<Run>& runs);

/// Reads blocks, which must be those of the runs at least, in one pass. The runs are in the order
/// of the file and don't overlap. What they took is worthless if this throws.
void read_runs(const std::filesystem::path& directory, const CheckpointFile& file,
               const std::vector<Run>& runs, const std::vector<bool>& blocks);

/// Reads the whole file and compares its size and all its checksums. `progress` gets the bytes of
/// each step.
void verify_file(const std::filesystem::path& directory, const CheckpointFile& file,
                 const std::function<void(std::int64_t)>& progress = {});

}  // namespace shardmix::checkpoint
