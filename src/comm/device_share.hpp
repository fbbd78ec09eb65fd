#pragma once

/// Memory of GPUs that the processes of a node share, and the order of their work on it.
///
/// A process queues work without waiting for it. So what it tells its peers through counters on the
/// host ("my gradients may be read") only holds for who waits, on its own GPU, for the mark that it
/// left in its queue before.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/device.hpp"

namespace shardmix::comm {

/// What a mark stands for: each counter of NodeCounters has one.
enum class Mark : std::uint8_t { posted, finished, written, summed };
inline constexpr std::size_t mark_count = 4;

class DeviceShare {
 public:
  virtual ~DeviceShare() = default;
  DeviceShare() = default;
  DeviceShare(const DeviceShare&) = delete;
  DeviceShare& operator=(const DeviceShare&) = delete;

  /// A name of memory of allocate(), for other processes. They must close it before it is released.
  [[nodiscard]] virtual std::string export_memory(std::byte* memory) = 0;
  /// Memory of another process, of any GPU that this one reaches. Throws DeviceError.
  [[nodiscard]] virtual std::byte* open_memory(const std::string& name) = 0;
  virtual void close_memory(std::byte* memory) noexcept = 0;

  [[nodiscard]] virtual std::string export_marks() = 0;
  /// Those of another process; wait_for() waits for them from then on.
  virtual void open_marks(const std::string& name) = 0;

  /// What is queued so far has the mark. If the device has failed, the next wait for it tells.
  virtual void set(Mark mark) noexcept = 0;
  /// What is queued from now on waits until all others have done what they had marked when this is
  /// called.
  virtual void wait_for(Mark mark) = 0;
};

/// Of a GPU. Hosts need none: there all work is done when its call returns.
[[nodiscard]] std::unique_ptr<DeviceShare> share_device(device::Device& device);

}  // namespace shardmix::comm
