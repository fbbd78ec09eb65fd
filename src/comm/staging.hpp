#pragma once

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "device/device.hpp"

namespace shardmix::comm {

/// Memory for slices on their way, kept between steps.
class Staging {
 public:
  using Allocate = std::function<device::Buffer(std::int64_t bytes)>;

  explicit Staging(Allocate allocate) : allocate_(std::move(allocate)) {}
  /// Of the host.
  explicit Staging(device::Device& device)
      : Staging([&device](std::int64_t bytes) {
          return device::Buffer(device, bytes, device::MemoryKind::host);
        }) {}

  [[nodiscard]] device::Buffer take(std::int64_t bytes) {
    const auto fits =
        std::ranges::find_if(free_, [&](const device::Buffer& b) { return b.bytes() >= bytes; });
    if (fits == free_.end()) return allocate_(bytes);
    device::Buffer buffer = std::move(*fits);
    free_.erase(fits);
    return buffer;
  }
  void give(device::Buffer buffer) {
    if (buffer.bytes() > 0) free_.push_back(std::move(buffer));
  }

 private:
  Allocate allocate_;
  std::vector<device::Buffer> free_;
};

}  // namespace shardmix::comm
