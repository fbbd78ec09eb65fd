#include "checkpoint/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <system_error>
#include <utility>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const char* what, const fs::path& path) {
  throw CheckpointError(
      fmt::format("can't {} '{}': {}", what, path.string(), std::strerror(errno)));
}

/// Closes at the end of a scope.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC)) {
    if (fd_ < 0) fail("open", path);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace

File::File(fs::path path, int flags)
    : path_(std::move(path)),
      // Without O_NONBLOCK a pipe would keep us waiting for its other end.
      descriptor_(open(path_.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644)) {
  if (descriptor_ < 0) fail("open", path_);
  struct stat about {};
  const bool known = fstat(descriptor_, &about) == 0;
  if (!known || !S_ISREG(about.st_mode)) {
    ::close(descriptor_);
    throw CheckpointError(fmt::format("'{}' isn't a plain file", path_.string()));
  }
}

File File::open_to_read(const fs::path& path) {
  return {path, O_RDONLY};
}

File File::open_to_write(const fs::path& path) {
  return {path, O_RDWR | O_CREAT};
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

std::int64_t File::size() const {
  struct stat about {};
  if (fstat(descriptor_, &about) != 0) fail("look at", path_);
  return about.st_size;
}

void File::read(std::int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = pread(descriptor_, bytes.data(), bytes.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read", path_);
    if (got == 0) {
      throw CheckpointError(
          fmt::format("'{}' ends at byte {}, before what is to be read", path_.string(), offset));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
}

void File::write(std::int64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path_);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += written;
  }
}

void File::reserve(std::int64_t bytes) const {
  if (bytes == 0) return;
  int status = 0;
  do {
    status = fallocate(descriptor_, 0, 0, bytes);
  } while (status != 0 && errno == EINTR);
  if (status != 0 && errno != EOPNOTSUPP) fail("reserve room for", path_);
}

void File::read_ahead() const noexcept {
  (void)posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);
}

void File::start_writing_out(std::int64_t offset, std::int64_t bytes) const noexcept {
  (void)sync_file_range(descriptor_, offset, bytes, SYNC_FILE_RANGE_WRITE);
}

void File::sync() const {
  if (fsync(descriptor_) != 0) fail("sync", path_);
}

void File::close() {
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("close", path_);
}

void sync_directory(const fs::path& path) {
  const Descriptor directory(path, O_RDONLY | O_DIRECTORY);
  if (fsync(directory.get()) != 0) fail("sync", path);
}

void sync_path_to(const fs::path& directory) {
  const auto device_of = [](const fs::path& path) {
    struct stat about {};
    if (stat(path.c_str(), &about) != 0) fail("look at", path);
    return about.st_dev;
  };
  const fs::path full = fs::canonical(directory);
  const dev_t device = device_of(full);
  for (fs::path path = full; path.has_relative_path(); path = path.parent_path()) {
    const fs::path above = path.parent_path();
    if (device_of(above) != device) break;
    if (access(above.c_str(), R_OK) == 0) sync_directory(above);
  }
}

void write_atomically(const fs::path& path, std::string_view text) {
  const fs::path temporary = path.string() + ".tmp";
  std::error_code ignored;
  fs::remove(temporary, ignored);
  File file = File::open_to_write(temporary);
  file.write(0, std::as_bytes(std::span(text)));
  file.sync();
  file.close();
  if (std::rename(temporary.c_str(), path.c_str()) != 0) fail("rename to", path);
  sync_directory(path.parent_path());
}

std::string read_text(const fs::path& path, std::int64_t most_bytes) {
  const File file = File::open_to_read(path);
  const std::int64_t bytes = file.size();
  if (bytes > most_bytes) {
    throw CheckpointError(fmt::format("'{}' has {} bytes, more than the {} that it may have",
                                      path.string(), bytes, most_bytes));
  }
  std::string text(static_cast<std::size_t>(bytes), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

std::int64_t free_bytes(const fs::path& path) {
  std::error_code error;
  const fs::space_info space = fs::space(path, error);
  if (error)
    throw CheckpointError(
        fmt::format("can't see how much room '{}' has: {}", path.string(), error.message()));
  return static_cast<std::int64_t>(std::min<std::uintmax_t>(space.available, INT64_MAX));
}

void publish_file(const fs::path& from, const fs::path& to, bool may_replace) {
  int status =
      renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), may_replace ? 0 : RENAME_NOREPLACE);
  // Some file systems of networks can't refuse to replace: look first there.
  if (status != 0 && errno == EINVAL && !fs::exists(to))
    status = std::rename(from.c_str(), to.c_str());
  if (status != 0) fail("rename to", to);
  sync_directory(to.parent_path());
}

void publish_directory(const fs::path& from, const fs::path& to) {
  sync_directory(from);
  if (fs::exists(to)) {
    if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0)
      fail("exchange", to);
    sync_directory(to.parent_path());
    fs::remove_all(from);
  } else {
    if (std::rename(from.c_str(), to.c_str()) != 0) fail("rename to", to);
    sync_directory(to.parent_path());
  }
}

void retire_directory(const fs::path& directory) {
  const fs::path nameless =
      directory.parent_path() /
      fmt::format(".{}.retired-{}", directory.filename().string(), unique_suffix());
  if (std::rename(directory.c_str(), nameless.c_str()) != 0) fail("rename", directory);
  sync_directory(directory.parent_path());
  std::error_code error;
  fs::remove_all(nameless, error);
  if (error)
    throw CheckpointError(fmt::format("can't remove '{}': {}", nameless.string(), error.message()));
}

void point_link(const fs::path& link, const std::string& target) {
  const fs::path temporary = link.string() + ".tmp-" + unique_suffix();
  if (symlink(target.c_str(), temporary.c_str()) != 0) fail("make the link", temporary);
  if (std::rename(temporary.c_str(), link.c_str()) != 0) fail("rename to", link);
  sync_directory(link.parent_path());
}

std::string unique_suffix() {
  std::random_device random;
  const std::uint64_t high = random();
  return fmt::format("{:016x}", high << 32 | random());
}

std::filesystem::path temporary_name(const std::filesystem::path& path, std::string_view suffix) {
  return path.parent_path() / fmt::format(".{}.tmp-{}", path.filename().string(), suffix);
}

Temporary::Temporary(const std::filesystem::path& path)
    : path_(temporary_name(path, unique_suffix())) {}

Temporary::~Temporary() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace shardmix::checkpoint
