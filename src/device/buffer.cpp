#include <atomic>
#include <utility>

#include "device/device.hpp"

namespace shardmix::device {
namespace {

std::atomic<bool> is_kept = false;

}  // namespace

void keep_memory() noexcept {
  is_kept = true;
}

bool keeps_memory() noexcept {
  return is_kept;
}

Buffer::Buffer(Device& device, std::int64_t bytes, MemoryKind kind) : bytes_(bytes) {
  if (bytes == 0) return;
  const auto size = static_cast<std::size_t>(bytes);
  data_ = static_cast<std::byte*>(device.allocate(size, kind));
  release_ = [&device, data = data_, size, kind] { device.release(data, size, kind); };
}

Buffer::Buffer(std::byte* data, std::int64_t bytes, std::function<void()> release) noexcept
    : data_(data), bytes_(bytes), release_(std::move(release)) {}

Buffer::~Buffer() {
  if (release_ && !is_kept) release_();
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      release_(std::exchange(other.release_, nullptr)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(release_, other.release_);
  return *this;
}

}  // namespace shardmix::device
