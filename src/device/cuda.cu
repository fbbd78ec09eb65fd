#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <variant>

#include "device/block_reduce.hpp"
#include "device/block_update.hpp"
#include "shardmix/error.hpp"

// The simplest right device: managed memory, which MPI and the host can address too, and one launch
// a task.

namespace shardmix::device {
namespace {

using math::block_elements;

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw DeviceError(std::string(call) + " failed: " + cudaGetErrorString(status));
  }
}

constexpr int threads_per_block = 256;
constexpr int lanes = 32;
/// Elements of a block that a thread works on: 16 bytes of a 16-bit array. A warp is a block.
constexpr int own = block_elements / lanes;

constexpr int lanes_of_row = square_columns / own;

/// The number of this thread's warp in the grid, and of all warps.
__device__ std::int64_t warp_number() {
  return (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;
}
__device__ std::int64_t warp_count() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x / lanes;
}

__device__ std::uint32_t warp_largest(std::uint32_t value) {
  return __reduce_max_sync(0xFFFFFFFFu, value);
}

/// A run of the task with its kernel.
template <class Kernel>
struct Run {
  std::int64_t end;  ///< in blocks
  Kernel kernel;
};

/// One launch for all runs: a warp looks up the run of each of its blocks.
template <class Kernel, StateStorage State>
__global__ void __launch_bounds__(threads_per_block)
    update_kernel(UpdateArrays a, const Run<Kernel>* runs, std::int64_t blocks,
                  const UpdateControl* control) {
  if (control->skip != 0) return;
  const float scale = control->gradient_scale;
  const int first = static_cast<int>(threadIdx.x % lanes) * own;
  const bool rounds = rounds_parameters(a);
  for (std::int64_t block = warp_number(); block < blocks; block += warp_count()) {
    const Run<Kernel>* run = runs;
    while (block >= run->end) ++run;
    const std::int64_t begin = block * block_elements + first;
    const std::int64_t number = a.first_block + block;
    alignas(16) float g_buffer[own];
    alignas(16) float theta_buffer[own];
    const float* g = load_gradient<own>(a, begin, g_buffer);
    float* theta = load_weights<own>(a, begin, theta_buffer);
    States<own, State> states;
    if constexpr (State == StateStorage::full) {
      states.update(run->kernel, a, begin, scale, g, theta);
    } else {
      math::Largest largest = states.update(run->kernel, a, begin, scale, g, theta);
      largest = {warp_largest(largest.m1), warp_largest(largest.m2), warp_largest(largest.v)};
      states.store(a, begin, largest, math::block_key(a.random.state, number), first);
    }
    alignas(16) std::uint32_t random[own];
    if (rounds) {
      for_each_random<own>(math::block_key(a.random.parameter, number), first,
                           [&](int i, std::uint32_t bits) { random[i] = bits; });
    }
    store_weights<own>(a, begin, theta, random);
  }
}

/// The addresses of the partial sums follow those of the sources.
__global__ void __launch_bounds__(threads_per_block)
    reduce_kernel(DType dtype, const void* const* sources, int count, int partials,
                  std::int64_t blocks, float* sum, double* block_squares) {
  const int lane = static_cast<int>(threadIdx.x % lanes);
  for (std::int64_t block = warp_number(); block < blocks; block += warp_count()) {
    const std::int64_t begin = block * block_elements + lane * own;
    alignas(16) float total[own];
    sum_tree<own>(dtype, sources, count, begin, total);
    add_partials<own>(reinterpret_cast<const float* const*>(sources + count), partials, begin,
                      total);
    if (sum != nullptr) copy<own>(total, sum + begin);
    if (block_squares == nullptr) continue;
    double columns[own];
    for_each<own>([&](int i) {
      columns[i] = static_cast<double>(total[i]) * static_cast<double>(total[i]);
      for (int offset = lanes_of_row; offset < lanes; offset *= 2)
        columns[i] += __shfl_xor_sync(0xFFFFFFFFu, columns[i], offset);
    });
    double squares = sum_of_halves<own>(columns);
    for (int offset = 1; offset < lanes_of_row; offset *= 2)
      squares += __shfl_xor_sync(0xFFFFFFFFu, squares, offset);
    const bool usable = __all_sync(0xFFFFFFFFu, are_usable<own>(total));
    if (lane == 0)
      block_squares[block] = usable ? squares : __longlong_as_double(0x7FF0000000000000LL);
  }
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int local_rank) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      throw DeviceError(
          "no GPU is visible to this process; check CUDA_VISIBLE_DEVICES and the driver, or use "
          "the host");
    }
    device_ = local_rank % devices;
    check(cudaSetDevice(device_), "cudaSetDevice");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
    name_ = properties.name;
    resident_blocks_ = properties.multiProcessorCount *
                       (properties.maxThreadsPerMultiProcessor / threads_per_block);
    check(cudaMallocManaged(&sources_, (largest_group + most_partials) * sizeof(void*)),
          "cudaMallocManaged");
  }

  ~CudaDevice() override {
    cudaFree(sources_);
    cudaFree(runs_);
  }

  void* allocate(std::size_t bytes) override {
    void* memory = nullptr;
    check(cudaMallocManaged(&memory, bytes), "cudaMallocManaged");
    check(cudaMemset(memory, 0, bytes), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return memory;
  }

  void release(void* memory, std::size_t /*bytes*/) noexcept override { cudaFree(memory); }

  void discard(std::byte* /*memory*/, std::size_t /*bytes*/) override {
    throw DeviceError("sharded gradients (shard_gradients) are there on hosts alone");
  }

  void reduce(const ReduceTask& task) override {
    if (task.elements == 0) return;
    if (task.sources.size() > largest_group)
      throw DeviceError("the CUDA reduction takes at most 65536 ranks");
    const void** next = std::ranges::copy(task.sources, sources_).out;
    std::ranges::copy(task.partials, next);
    const std::int64_t blocks = task.elements / block_elements;
    launch(&reduce_kernel, blocks, task.dtype, const_cast<const void* const*>(sources_),
           static_cast<int>(task.sources.size()), static_cast<int>(task.partials.size()), blocks,
           task.sum, task.block_squares);
  }

  void update(const UpdateTask& task) override {
    if (task.elements == 0) return;
    std::visit([&]<class Kernel>(const Kernel&) { update_with<Kernel>(task); },
               task.runs.front().kernel);
  }

  void stream(const StreamTask& task) override;

  std::string description() const override {
    return name_ + " (GPU " + std::to_string(device_) + ")";
  }

 private:
  static constexpr std::size_t largest_group = 65536;
  static constexpr std::size_t most_partials = 64;  // 2^64 micro-batches

  template <class Kernel>
  void update_with(const UpdateTask& task) {
    auto* runs = static_cast<Run<Kernel>*>(room_for_runs(task.runs.size() * sizeof(Run<Kernel>)));
    for (std::size_t r = 0; r < task.runs.size(); ++r)
      runs[r] = {task.runs[r].end / block_elements, std::get<Kernel>(task.runs[r].kernel)};
    const auto kernel = task.arrays.state == StateStorage::full
                            ? &update_kernel<Kernel, StateStorage::full>
                            : &update_kernel<Kernel, StateStorage::compact>;
    const std::int64_t blocks = task.elements / block_elements;
    launch(kernel, blocks, task.arrays, static_cast<const Run<Kernel>*>(runs), blocks,
           task.control);
  }

  void* room_for_runs(std::size_t bytes) {
    if (bytes > runs_bytes_) {
      check(cudaFree(runs_), "cudaFree");
      runs_ = nullptr;
      runs_bytes_ = 0;
      check(cudaMallocManaged(&runs_, bytes), "cudaMallocManaged");
      runs_bytes_ = bytes;
    }
    return runs_;
  }

  /// A warp a block, as many as are resident at once at most, and waits.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), std::int64_t blocks, const Arguments&... arguments) {
    const std::int64_t wanted = (blocks * lanes + threads_per_block - 1) / threads_per_block;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(std::min(wanted, resident_blocks_)));
    config.blockDim = dim3(threads_per_block);
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "cudaLaunchKernelEx");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  int device_ = 0;
  std::string name_;
  std::int64_t resident_blocks_ = 0;
  const void** sources_ = nullptr;
  void* runs_ = nullptr;
  std::size_t runs_bytes_ = 0;
};

/// A thread moves 16 bytes at a time; `mask` is 0, which the compiler doesn't know.
__global__ void stream_kernel(uint4* data, std::int64_t count, bool written, unsigned mask,
                              unsigned* sink) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  unsigned all = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    uint4 words = data[i];
    if (written) {
      data[i] = {words.x ^ mask, words.y ^ mask, words.z ^ mask, words.w ^ mask};
    } else {
      all |= words.x | words.y | words.z | words.w;
    }
  }
  if (!written && all == mask + 1) *sink = all;
}

void CudaDevice::stream(const StreamTask& task) {
  for (const StreamArray& a : task.arrays) {
    const std::int64_t count = task.blocks * a.bytes_per_block / std::int64_t{sizeof(uint4)};
    launch(&stream_kernel, task.blocks, reinterpret_cast<uint4*>(a.data), count, a.written, 0u,
           reinterpret_cast<unsigned*>(sources_));
  }
}

}  // namespace

std::unique_ptr<Device> cuda_device(int local_rank) {
  return std::make_unique<CudaDevice>(local_rank);
}

}  // namespace shardmix::device
