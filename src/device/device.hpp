#pragma once

/// Where memory lives and kernels run: a host or a GPU. The optimizer talks to this interface
/// alone.
///
/// Work is queued: it is done in the order of the calls, and a GPU may still be at it when a call
/// has returned. Counts are elements, in whole blocks of 256; arrays begin at multiples of 16
/// bytes.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "math/compact.hpp"
#include "math/exact_sum.hpp"
#include "math/random_bits.hpp"
#include "math/update_rules.hpp"
#include "shardmix/dtype.hpp"

namespace shardmix::device {

/// A sum of the squares of blocks, of which each is a double (see block_reduce.hpp); to be added to
/// others element by element. Lies in memory of the device.
struct SquareSum {
  std::int64_t digits[math::ExactSum::digits] = {};
  std::int64_t unusable = 0;  ///< blocks that aren't usable
};
inline constexpr int square_sum_values = math::ExactSum::digits + 1;
static_assert(sizeof(SquareSum) == square_sum_values * sizeof(std::int64_t));

/// sum[i] = the sum of sources[r][i] over r, in fp32 and in the order of a fixed binary tree over
/// r; then the partial sums are added to it from the left, the last one first.
struct ReduceTask {
  std::span<const void* const> sources;
  DType dtype = DType::fp32;  ///< of the sources
  std::int64_t elements = 0;
  std::span<const float* const> partials = {};  ///< of earlier micro-batches; may include `sum`
  float* sum = nullptr;                         ///< null: not stored
  /// The squares of sum[i] are added to it. Null: not wanted.
  SquareSum* squares = nullptr;
};

/// What holds the fp32 weight of an element.
enum class WeightStorage : std::uint8_t {
  parameter,  ///< the parameter alone; where it has 16 bits, rounded stochastically
  master,     ///< a 16-bit parameter and an fp32 master
  remainder,  ///< a bf16 parameter and the 16 bits it lacks
};

/// How m1, m2 and v are stored.
enum class StateStorage : std::uint8_t {
  full,     ///< an fp32 array for each that the rule keeps
  compact,  ///< a word for all of them, as math/compact.hpp has it, and scales for each block
};

/// Most arrays that an update adds up as its gradient, and most copies that it writes of a
/// parameter.
inline constexpr int most_gradients = 4;
inline constexpr int most_copies = 7;

/// The memory that an update works on. A plain value: kernels take a copy. What isn't there is
/// null.
struct UpdateArrays {
  WeightStorage weights = WeightStorage::parameter;
  StateStorage state = StateStorage::full;
  DType dtype = DType::fp32;           ///< of the parameter
  DType gradient_dtype = DType::fp32;  ///< fp32 or the parameter's
  std::int32_t gradient_count = 1;
  /// The gradient is the sum of these, as a binary tree.
  const void* gradients[most_gradients] = {};
  void* parameter = nullptr;
  std::int32_t copy_count = 0;
  void* copies[most_copies] = {};  ///< of the parameter: written as it is
  void* master = nullptr;          ///< fp32, or 16-bit remainders
  float* m1 = nullptr;             ///< fp32 state alone; null where the rule doesn't keep it
  float* m2 = nullptr;
  float* v = nullptr;
  /// Compact state alone: the upper `word_bytes` bytes of each word, the lower ones being 0: 4, or
  /// 2 without m2, or 1 without m2 and v.
  void* words = nullptr;
  std::int32_t word_bytes = 0;
  math::BlockScales* scales = nullptr;
  std::int64_t first_block = 0;  ///< in the layout: random numbers depend on it
  math::RandomKeys random = {};
};

/// `word_bytes` for what a rule keeps.
[[nodiscard]] SHARDMIX_HOST_DEVICE constexpr std::int32_t word_bytes_of(
    const RuleStates& states) noexcept {
  return states.m2 ? 4 : states.v ? 2 : states.m1 ? 1 : 0;
}

/// What is known after the gradient norm alone; lies in memory of the device.
struct UpdateControl {
  float gradient_scale = 1.0f;  ///< factor on the gradient: mean, clipping, loss scale
  std::int32_t skip = 0;        ///< nonzero: nothing changes
  double norm = 0.0;            ///< of the sum of gradients
  double clip_scale = 1.0;
};

/// Decides about a step from the squares of all ranks' gradients.
struct DecideTask {
  const SquareSum* squares = nullptr;
  double mean = 1.0;       ///< factor that makes the sum of gradients the step's gradient
  double clip_norm = 0.0;  ///< 0: no clipping
  UpdateControl* control = nullptr;
  UpdateControl* copy = nullptr;  ///< in memory of hosts
};

/// Blocks that share their scalars, from where the run before them ends.
struct UpdateRun {
  std::int64_t end = 0;  ///< in elements of the task
  math::UpdateKernel kernel;
};

/// One step of a rule on a run of elements.
struct UpdateTask {
  UpdateArrays arrays;
  std::int64_t elements = 0;
  std::span<const UpdateRun> runs;  ///< of one rule; the last ends at `elements`
  const UpdateControl* control = nullptr;
};

/// Memory that a streaming pass moves.
struct StreamArray {
  std::byte* data = nullptr;
  std::int64_t bytes_per_block = 0;  ///< a multiple of 4
  bool written = false;              ///< false: only read
};

/// A pass that moves bytes and changes none: the bound that an update's speed is measured against.
struct StreamTask {
  std::span<const StreamArray> arrays;
  std::int64_t blocks = 0;
  bool by_block =
      true;  ///< block after block through all arrays, as an update does; or array after array
};

/// Where memory is.
enum class MemoryKind : std::uint8_t {
  device,  ///< where kernels run
  host,    ///< on the host; kernels can address it too, slowly
};

class Device {
 public:
  virtual ~Device() = default;
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Zeroed memory, aligned to a page. Throws DeviceError.
  [[nodiscard]] virtual void* allocate(std::size_t bytes, MemoryKind kind) = 0;
  virtual void release(void* memory, std::size_t bytes, MemoryKind kind) noexcept = 0;

  /// Makes memory of allocate() zero; whole pages are given back until they are written again.
  /// Throws DeviceError where the device can't.
  virtual void discard(std::byte* memory, std::size_t bytes) = 0;

  virtual void reduce(const ReduceTask& task) = 0;
  /// Sets `*total` to the sum of `count` sums.
  virtual void add_sums(const SquareSum* sums, std::int64_t count, SquareSum* total) = 0;
  virtual void decide(const DecideTask& task) = 0;
  virtual void update(const UpdateTask& task) = 0;
  virtual void stream(const StreamTask& task) = 0;
  virtual void zero(void* memory, std::size_t bytes) = 0;

  /// Between memory that kernels can address.
  virtual void queue_copy(void* to, const void* from, std::size_t bytes) = 0;

  /// Waits until everything queued is done. Throws DeviceError if any of it failed, as the next two
  /// do.
  virtual void synchronize() = 0;
  /// Whether everything queued is done.
  [[nodiscard]] virtual bool is_idle() = 0;
  /// Whether what the last decide() decided is known.
  [[nodiscard]] virtual bool is_decided() = 0;

  /// Remembers how far the queue is, as place 0 or 1; is_past() tells, to any thread, whether it
  /// has come there.
  virtual void remember(int /*place*/) {}
  [[nodiscard]] virtual bool is_past(int /*place*/) { return true; }

  /// Copies between memory of this device and of the host, and waits. Not queued: what was queued
  /// for that memory must be done. From any thread.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  /// Makes memory of the device zero in the same way.
  virtual void clear(void* memory, std::size_t bytes) = 0;

  /// Whether hosts can address memory of kind `device`.
  [[nodiscard]] virtual bool is_host() const noexcept = 0;

  /// The same device with a queue of its own: what is queued there goes on beside what is queued
  /// here. On hosts it has one thread.
  [[nodiscard]] virtual std::unique_ptr<Device> beside() const = 0;
  /// Where work is queued: a cudaStream_t, or null on hosts.
  [[nodiscard]] virtual void* queue() const noexcept { return nullptr; }
  /// The trainer's own queue, a cudaStream_t (null: the default stream).
  virtual void set_trainer_queue(void* /*stream*/) {}
  /// What is queued from now on waits for what the trainer has queued so far.
  virtual void follow_trainer() {}
  /// What the trainer queues from now on waits for what is queued here.
  virtual void lead_trainer() {}

  /// Names what is queued in between, for a profiler's timeline.
  virtual void begin_range(const char* /*name*/) noexcept {}
  virtual void end_range() noexcept {}

  [[nodiscard]] virtual std::string description() const = 0;
};

/// A range from here to the end of the scope.
class Range {
 public:
  Range(Device& device, const char* name) noexcept : device_(device) { device.begin_range(name); }
  ~Range() { device_.end_range(); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  Device& device_;
};

/// `threads` host threads share each task; any number gives the same bits.
[[nodiscard]] std::unique_ptr<Device> host_device(int threads);

/// The GPU number `place` modulo those visible. Throws DeviceError if there is none or the
/// build has no CUDA.
[[nodiscard]] std::unique_ptr<Device> cuda_device(int place);

/// Owns memory.
class Buffer {
 public:
  Buffer() = default;
  /// Zeroed memory of a device, which must outlive it.
  Buffer(Device& device, std::int64_t bytes, MemoryKind kind = MemoryKind::device);
  /// Memory from elsewhere, which `release` gives back.
  Buffer(std::byte* data, std::int64_t bytes, std::function<void()> release) noexcept;
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
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
  std::function<void()> release_;
};

/// From now on no memory is given back before the program ends: after an error messages may still
/// arrive in it.
void keep_memory() noexcept;
[[nodiscard]] bool keeps_memory() noexcept;

}  // namespace shardmix::device
