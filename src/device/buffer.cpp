#include <utility>

#include "device/device.hpp"

namespace shardmix::device {

Buffer::Buffer(Device& device, std::int64_t bytes) : device_(&device), bytes_(bytes) {
  if (bytes > 0) data_ = static_cast<std::byte*>(device.allocate(static_cast<std::size_t>(bytes)));
}

Buffer::~Buffer() {
  if (data_ != nullptr) device_->release(data_, static_cast<std::size_t>(bytes_));
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace shardmix::device
