#pragma once

/// The manifest: the file that says what a checkpoint is, which files belong to it and what their
/// checksums are. A directory is a checkpoint if, and only if, it has one.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

inline constexpr const char* manifest_name = "manifest.json";

/// Now, as a manifest's `created` has it.
[[nodiscard]] std::string time_of_creation();

/// The manifest's text. Its last line but one holds the checksum of all lines before.
[[nodiscard]] std::string manifest_text(const CheckpointInfo& info);

/// The inverse. Everything is checked: the checksum, types, ranges, that files and arrays stay
/// where they belong. Throws CheckpointError, naming the field.
[[nodiscard]] CheckpointInfo parse_manifest(const std::string& text,
                                            const std::filesystem::path& directory);

/// What one rank tells the others of its part of a checkpoint.
struct Part {
  std::optional<CheckpointFile> file;  ///< where it wrote one
  MemoryReport memory;
};
[[nodiscard]] std::string part_text(const Part& part);
[[nodiscard]] Part parse_part(const std::string& text);

/// The manifest's text of a checkpoint directory. Throws CheckpointError.
[[nodiscard]] std::string read_manifest(const std::filesystem::path& directory);

/// "shard-00003-of-00008.h5": a file's number, and how many there are.
[[nodiscard]] std::string shard_name(int file, int files);

}  // namespace shardmix::checkpoint
