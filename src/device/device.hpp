#pragma once

/// Where memory lives and kernels run: a host or a GPU. The optimizer talks to this interface
/// alone.
///
/// Calls complete before they return. Counts are elements, in whole blocks of 256.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "math/update_rules.hpp"
#include "shardmix/dtype.hpp"

namespace shardmix::device {

/// How the weights of an update are stored.
enum class WeightStorage : std::uint8_t {
  fp32,              ///< the fp32 parameter is the weight
  bf16_fp32_master,  ///< bf16 parameter, fp32 master
  bf16_remainder,    ///< bf16 parameter and the 16 bits it lacks
};

/// sum[i] = the sum of sources[r][i] over r, in fp32 and in the order of a fixed binary tree over
/// r; then the partial sums are added to it from the left, the last one first.
struct ReduceTask {
  std::span<const void* const> sources;
  DType dtype = DType::fp32;  ///< of the sources
  std::int64_t elements = 0;
  std::span<const float* const> partials = {};  ///< of earlier micro-batches; may include `sum`
  float* sum = nullptr;
  /// Per block: the sum of sum[i]^2, or infinity if any isn't usable.
  double* block_squares = nullptr;
};

/// One step of the rule on a run of elements that share their scalars.
struct UpdateTask {
  math::UpdateKernel kernel;
  WeightStorage storage = WeightStorage::fp32;
  std::int64_t elements = 0;
  float gradient_scale = 1.0f;  ///< factor on the gradient: mean and clipping
  const float* gradient = nullptr;
  void* parameter = nullptr;
  void* master = nullptr;  ///< fp32 or 16-bit remainders; unused where the parameter is fp32
  float* m1 = nullptr;     ///< null where the rule has none; likewise m2
  float* m2 = nullptr;
  float* v = nullptr;
};

class Device {
 public:
  virtual ~Device() = default;
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Zeroed memory that both this device's kernels and the host can address, aligned to a page.
  /// Throws DeviceError.
  [[nodiscard]] virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* memory, std::size_t bytes) noexcept = 0;

  virtual void reduce(const ReduceTask& task) = 0;
  virtual void update(const UpdateTask& task) = 0;

  [[nodiscard]] virtual std::string description() const = 0;
};

/// `threads` host threads share each task; any number gives the same bits.
[[nodiscard]] std::unique_ptr<Device> host_device(int threads);

/// The GPU number `local_rank` modulo those visible. Throws DeviceError if there is none or the
/// build has no CUDA.
[[nodiscard]] std::unique_ptr<Device> cuda_device(int local_rank);

/// Owns memory of a device.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device& device, std::int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return reinterpret_cast<T*>(data_);
  }

 private:
  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

}  // namespace shardmix::device
