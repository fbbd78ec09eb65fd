#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "device/device.hpp"

namespace shardmix::comm {

/// Memory for slices on their way, kept between steps.
class Staging {
 public:
  explicit Staging(device::Device& device, device::MemoryKind kind = device::MemoryKind::host)
      : device_(device), kind_(kind) {}

  [[nodiscard]] device::Buffer take(std::int64_t bytes) {
    const auto fits =
        std::ranges::find_if(free_, [&](const device::Buffer& b) { return b.bytes() >= bytes; });
    if (fits == free_.end()) return {device_, bytes, kind_};
    device::Buffer buffer = std::move(*fits);
    free_.erase(fits);
    return buffer;
  }
  void give(device::Buffer buffer) { free_.push_back(std::move(buffer)); }

 private:
  device::Device& device_;
  device::MemoryKind kind_;
  std::vector<device::Buffer> free_;
};

}  // namespace shardmix::comm
