#pragma once

/// Files and directories as a crash leaves them: what is synced, what a rename commits. All
/// functions throw CheckpointError with the path and the system's reason.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace shardmix::checkpoint {

/// An open file. Only regular ones: what a link, a pipe or a device in a checkpoint's place would
/// give is not read.
class File {
 public:
  [[nodiscard]] static File open_to_read(const std::filesystem::path& path);
  [[nodiscard]] static File open_to_write(const std::filesystem::path& path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;

  [[nodiscard]] std::int64_t size() const;
  /// All of the bytes; throws where the file ends before.
  void read(std::int64_t offset, std::span<std::byte> bytes) const;
  void write(std::int64_t offset, std::span<const std::byte> bytes) const;
  /// Makes sure that there is room for its first `bytes`, where the file system can tell.
  void reserve(std::int64_t bytes) const;
  /// Hints: it will be read from front to back; what was written there should be on its way to the
  /// disk.
  void read_ahead() const noexcept;
  void start_writing_out(std::int64_t offset, std::int64_t bytes) const noexcept;
  /// Brings the contents to the disk.
  void sync() const;
  /// Closes; what the system only tells then is an error too.
  void close();

 private:
  File(std::filesystem::path path, int flags);
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Brings a directory's entries to the disk.
void sync_directory(const std::filesystem::path& path);

/// Brings the directory's name to the disk, and those of the directories above it: whoever made
/// them may not have. As far as its file system goes, and but for what can't be read.
void sync_path_to(const std::filesystem::path& directory);

/// Writes a whole small file, syncs it, and puts it at `path` in one rename.
void write_atomically(const std::filesystem::path& path, std::string_view text);

/// Reads a whole small file. Refuses one larger than `most_bytes`.
[[nodiscard]] std::string read_text(const std::filesystem::path& path, std::int64_t most_bytes);

/// Bytes that may still be written where `path` is.
[[nodiscard]] std::int64_t free_bytes(const std::filesystem::path& path);

/// Gives a file, which is synced, the name `to` beside it and syncs the directory. What has that
/// name already is replaced or, without `may_replace`, an error.
void publish_file(const std::filesystem::path& from, const std::filesystem::path& to,
                  bool may_replace);

/// Gives directory `from` the name `to` in one atomic act and syncs the parent. If `to` exists, the
/// two are exchanged and the older one removed.
void publish_directory(const std::filesystem::path& from, const std::filesystem::path& to);

/// Removes a directory that others may take for complete: it loses its name first, on the
/// disk too.
void retire_directory(const std::filesystem::path& directory);

/// Points the symbolic link `link` at `target`, atomically.
void point_link(const std::filesystem::path& link, const std::string& target);

/// A name that no other process uses: 16 random hexadecimal digits.
[[nodiscard]] std::string unique_suffix();

/// The name, beside `path`, of what is to be renamed to it when it is complete.
[[nodiscard]] std::filesystem::path temporary_name(const std::filesystem::path& path,
                                                   std::string_view suffix);

/// Such a name of a file or directory, which is removed at the end if it is still there.
class Temporary {
 public:
  explicit Temporary(const std::filesystem::path& path);
  ~Temporary();
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace shardmix::checkpoint
