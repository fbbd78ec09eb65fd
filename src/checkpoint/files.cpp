#include "checkpoint/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <system_error>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const char* what, const fs::path& path) {
  throw CheckpointError(
      fmt::format("can't {} '{}': {}", what, path.string(), std::strerror(errno)));
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags)
      : path_(path), fd_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail("open", path);
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void sync() const {
    if (fsync(fd_) != 0) fail("sync", path_);
  }

  void write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = ::write(fd_, text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("write", path_);
      text.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  /// Reads up to `bytes`; 0 at the end of the file.
  [[nodiscard]] std::size_t read(char* buffer, std::size_t bytes) const {
    for (;;) {
      const ssize_t got = ::read(fd_, buffer, bytes);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) fail("read", path_);
    }
  }

 private:
  fs::path path_;
  int fd_;
};

}  // namespace

void sync(const fs::path& path) {
  Descriptor(path, O_RDONLY).sync();
}

void write_atomically(const fs::path& path, std::string_view text) {
  const fs::path temporary = path.string() + ".tmp";
  {
    const Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    file.write(text);
    file.sync();
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) fail("rename to", path);
  sync(path.parent_path());
}

std::string read_text(const fs::path& path, std::int64_t most_bytes) {
  const Descriptor file(path, O_RDONLY);
  std::string text;
  char buffer[65536];
  for (std::size_t got = file.read(buffer, sizeof buffer); got > 0;
       got = file.read(buffer, sizeof buffer)) {
    text.append(buffer, got);
    if (std::ssize(text) > most_bytes) {
      throw CheckpointError(fmt::format("'{}' is larger than the {} bytes that it may have",
                                        path.string(), most_bytes));
    }
  }
  return text;
}

Digest digest_of(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  XXH3_128bits_reset(state.get());
  std::vector<char> buffer(std::size_t{1} << 20);
  Digest digest;
  for (std::size_t got = file.read(buffer.data(), buffer.size()); got > 0;
       got = file.read(buffer.data(), buffer.size())) {
    XXH3_128bits_update(state.get(), buffer.data(), got);
    digest.bytes += static_cast<std::int64_t>(got);
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  digest.xxh3_128 = fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  return digest;
}

void publish_directory(const fs::path& from, const fs::path& to) {
  sync(from);
  if (fs::exists(to)) {
    if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0)
      fail("exchange", to);
    sync(to.parent_path());
    fs::remove_all(from);
  } else {
    if (std::rename(from.c_str(), to.c_str()) != 0) fail("rename to", to);
    sync(to.parent_path());
  }
}

void retire_directory(const fs::path& directory) {
  const fs::path nameless =
      directory.parent_path() /
      fmt::format(".{}.retired-{}", directory.filename().string(), unique_suffix());
  if (std::rename(directory.c_str(), nameless.c_str()) != 0) fail("rename", directory);
  std::error_code error;
  fs::remove_all(nameless, error);
  if (error)
    throw CheckpointError(fmt::format("can't remove '{}': {}", nameless.string(), error.message()));
}

void point_link(const fs::path& link, const std::string& target) {
  const fs::path temporary = link.string() + ".tmp-" + unique_suffix();
  if (symlink(target.c_str(), temporary.c_str()) != 0) fail("make the link", temporary);
  if (std::rename(temporary.c_str(), link.c_str()) != 0) fail("rename to", link);
  sync(link.parent_path());
}

std::string unique_suffix() {
  std::random_device random;
  const std::uint64_t high = random();
  return fmt::format("{:016x}", high << 32 | random());
}

}  // namespace shardmix::checkpoint
