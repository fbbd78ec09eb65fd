#pragma once

#include <cstdint>

#include "bench/precisions.hpp"
#include "bench/traffic.hpp"
#include "device/device.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::bench {

/// The memory of one update, filled with plausible values.
class Workload {
 public:
  Workload(device::Device& device, const Rule& rule, const Precision& precision,
           std::int64_t elements, DType gradient_dtype);

  void update();

  /// The bytes that an update moves; more may be added.
  [[nodiscard]] Pass& pass() noexcept { return pass_; }

  /// What the next update works on.
  device::UpdateArrays arrays;

 private:
  [[nodiscard]] std::byte* array(std::int64_t bytes_per_element, bool written);

  device::Device& device_;
  Rule rule_;
  std::int64_t elements_;
  device::Buffer control_;
  Pass pass_;
  std::int64_t step_ = 0;
};

/// Uniform numbers in [-size, size).
void fill(device::Device& device, DType dtype, void* to, std::int64_t elements, float size);

}  // namespace shardmix::bench
