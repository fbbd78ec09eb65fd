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

namespace shardmix::comm {

/// What a mark stands for: each counter of NodeCounters has one.
enum class Mark : std::uint8_t { posted, finished, written, summed };
inline constexpr std::size_t mark_count = 4;
/// Of each kind.
inline constexpr std::int64_t remembered_marks = 8;

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

  /// What is in a queue of the device so far has the mark of this number; each mark has one queue
  /// and comes in the order of numbers. If the device has failed, the next wait for it tells.
  virtual void set(Mark mark, std::int64_t number, void* queue) noexcept = 0;
  /// What comes into the queue from now on waits until all others have done what they marked with
  /// this number, which they have set, or with one that is higher by a multiple of
  /// remembered_marks.
  virtual void wait_for(Mark mark, std::int64_t number, void* queue) = 0;
};

/// Of this process's GPU. Hosts need none: there all work is done when its call returns.
[[nodiscard]] std::unique_ptr<DeviceShare> share_device();

}  // namespace shardmix::comm
