#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "shardmix/error.hpp"
#include "train/text.hpp"

namespace shardmix::train {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, std::string_view why) {
  throw ConfigError(fmt::format("the text file {} (--text) can't be read: {}", path.string(), why));
}

[[noreturn]] void fail_with_errno(const std::filesystem::path& path) {
  fail(path, std::generic_category().message(errno));
}

/// A file descriptor that is closed at the end of its scope.
class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      : number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (number_ < 0) fail_with_errno(path);
  }
  ~Descriptor() { ::close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  [[nodiscard]] int number() const noexcept { return number_; }

 private:
  int number_;
};

}  // namespace

TextFile::TextFile(const std::filesystem::path& path) {
  const Descriptor file(path);
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) fail_with_errno(path);
  if (!S_ISREG(status.st_mode)) fail(path, "it is no regular file");
  if (status.st_size == 0) fail(path, "it is empty");
  const auto size = static_cast<std::size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.number(), 0);
  if (data == MAP_FAILED) fail_with_errno(path);
  bytes_ = {static_cast<const std::uint8_t*>(data), size};
}

TextFile::~TextFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size());
}

TextFile::TextFile(TextFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

std::uint64_t TextFile::hash() const noexcept {
  return XXH3_64bits(bytes_.data(), bytes_.size());
}

}  // namespace shardmix::train
