#pragma once

/// Bytes that must be moved, as arrays that a streaming pass goes over.

#include <vector>

#include "device/device.hpp"
#include "math/block.hpp"

namespace shardmix::bench {

/// One pass over `elements` of some arrays.
class Pass {
 public:
  Pass(device::Device& device, std::int64_t elements) : device_(device), elements_(elements) {}

  /// An array of the pass's own.
  void add(std::int64_t bytes_per_element, bool written) {
    if (bytes_per_element == 0) return;
    add(device::Buffer(device_, bytes_per_element * elements_), written);
  }
  /// An array that is worked on too. Returns where it is.
  std::byte* add(device::Buffer buffer, bool written) {
    const std::int64_t bytes = buffer.bytes() / (elements_ / math::block_elements);
    buffers_.push_back(std::move(buffer));
    streams_.push_back(
        {.data = buffers_.back().data(), .bytes_per_block = bytes, .written = written});
    bytes_ += static_cast<double>(bytes * (written ? 2 : 1)) / math::block_elements;
    return buffers_.back().data();
  }

  /// Bytes of an element, read and written.
  [[nodiscard]] double bytes() const noexcept { return bytes_; }

  void run(bool by_block) const {
    device_.stream(
        {.arrays = streams_, .blocks = elements_ / math::block_elements, .by_block = by_block});
  }

 private:
  device::Device& device_;
  std::int64_t elements_;
  std::vector<device::Buffer> buffers_;
  std::vector<device::StreamArray> streams_;
  double bytes_ = 0.0;
};

}  // namespace shardmix::bench
