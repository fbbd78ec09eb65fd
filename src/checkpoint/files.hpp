#pragma once

/// Files and directories as a crash leaves them: what is synced, what a rename commits. All
/// functions throw CheckpointError with the path and the system's reason.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace shardmix::checkpoint {

/// Brings a file's contents, or a directory's entries, to the disk.
void sync(const std::filesystem::path& path);

/// Writes a whole small file, syncs it, and puts it at `path` in one rename.
void write_atomically(const std::filesystem::path& path, std::string_view text);

/// Reads a whole small file. Refuses one larger than `most_bytes`.
[[nodiscard]] std::string read_text(const std::filesystem::path& path, std::int64_t most_bytes);

/// What identifies a file's contents.
struct Digest {
  std::int64_t bytes = 0;
  std::string xxh3_128;  ///< 32 hexadecimal digits

  bool operator==(const Digest&) const = default;
};
[[nodiscard]] Digest digest_of(const std::filesystem::path& path);

/// Gives directory `from` the name `to` in one atomic act and syncs the parent. If `to` exists, the
/// two are exchanged and the older one removed.
void publish_directory(const std::filesystem::path& from, const std::filesystem::path& to);

/// Removes a directory that others may take for complete: it loses its name first.
void retire_directory(const std::filesystem::path& directory);

/// Points the symbolic link `link` at `target`, atomically.
void point_link(const std::filesystem::path& link, const std::string& target);

/// A name that no other process uses: 16 random hexadecimal digits.
[[nodiscard]] std::string unique_suffix();

}  // namespace shardmix::checkpoint
