#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "device/kernels.hpp"
#include "shardmix/error.hpp"

// The simplest right device: managed memory, which MPI and the host can address too, and one launch
// a task.

namespace shardmix::device {
namespace {

using math::block_columns;
using math::block_elements;
using math::block_rows;

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw DeviceError(std::string(call) + " failed: " + cudaGetErrorString(status));
  }
}

constexpr int threads_per_block = 256;

template <class Kernel, class Weights>
__global__ void update_kernel(Kernel kernel, Weights weights, float scale, const float* gradient,
                              StatePointers state, std::int64_t elements) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < elements; i += stride) {
    update_element(kernel, weights, scale, gradient, state, i);
  }
}

/// The tree over the sources, without recursion: partial sums of complete subtrees, as in a binary
/// counter.
template <class T>
__device__ float sum_tree(const void* const* sources, int count, std::int64_t i) {
  float partial[16];  // up to 2^16 ranks
  int levels = 0;
  for (int r = 0; r < count; ++r) {
    float sum = to_float(static_cast<const T*>(sources[r])[i]);
    for (int carry = r + 1; carry % 2 == 0; carry /= 2) sum = partial[--levels] + sum;
    partial[levels++] = sum;
  }
  float sum = partial[--levels];
  while (levels > 0) sum = partial[--levels] + sum;
  return sum;
}

/// A warp a block: lane c holds column c. The addresses of the partial sums follow those of the
/// sources.
template <class T>
__global__ void reduce_kernel(const void* const* sources, int count, int partials,
                              std::int64_t blocks, float* sum, double* block_squares) {
  const int column = threadIdx.x % 32;
  const std::int64_t block =
      (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (block >= blocks) return;
  float rows[block_rows];
  bool usable = true;
  for (int r = 0; r < block_rows; ++r) {
    const std::int64_t i = block * block_elements + r * block_columns + column;
    float total = sum_tree<T>(sources, count, i);
    for (int p = partials; p-- > 0;)
      total = static_cast<const float*>(sources[count + p])[i] + total;
    rows[r] = total;
    sum[i] = rows[r];
    usable &= math::is_usable(rows[r]);
  }
  const auto square = [&](int r) {
    return static_cast<double>(rows[r]) * static_cast<double>(rows[r]);
  };
  double squares = math::tree_sum<block_rows>(square);
  // Neighbours first: the same tree over columns as on the host.
  for (int offset = 1; offset < 32; offset *= 2)
    squares += __shfl_xor_sync(0xFFFFFFFFu, squares, offset);
  usable = __all_sync(0xFFFFFFFFu, usable);
  if (column == 0)
    block_squares[block] = usable ? squares : __longlong_as_double(0x7FF0000000000000LL);
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

  ~CudaDevice() override { cudaFree(sources_); }

  void* allocate(std::size_t bytes) override {
    void* memory = nullptr;
    check(cudaMallocManaged(&memory, bytes), "cudaMallocManaged");
    check(cudaMemset(memory, 0, bytes), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return memory;
  }

  void release(void* memory, std::size_t /*bytes*/) noexcept override { cudaFree(memory); }

  void reduce(const ReduceTask& task) override {
    if (task.elements == 0) return;
    if (task.sources.size() > largest_group)
      throw DeviceError("the CUDA reduction takes at most 65536 ranks");
    const void** next = std::ranges::copy(task.sources, sources_).out;
    std::ranges::copy(task.partials, next);
    const std::int64_t blocks = task.elements / block_elements;
    const auto grid =
        static_cast<unsigned>((blocks * 32 + threads_per_block - 1) / threads_per_block);
    const auto kernel =
        task.dtype == DType::fp32 ? &reduce_kernel<float> : &reduce_kernel<std::uint16_t>;
    launch(kernel, grid, const_cast<const void* const*>(sources_),
           static_cast<int>(task.sources.size()), static_cast<int>(task.partials.size()), blocks,
           task.sum, task.block_squares);
  }

  void update(const UpdateTask& task) override {
    if (task.elements == 0) return;
    const StatePointers state{task.m1, task.m2, task.v};
    const std::int64_t wanted = (task.elements + threads_per_block - 1) / threads_per_block;
    const auto grid = static_cast<unsigned>(wanted < resident_blocks_ ? wanted : resident_blocks_);
    dispatch(task, [&]<class Kernel, class Weights>(const Kernel& kernel, const Weights& weights) {
      launch(&update_kernel<Kernel, Weights>, grid, kernel, weights, task.gradient_scale,
             task.gradient, state, task.elements);
    });
  }

  std::string description() const override {
    return name_ + " (GPU " + std::to_string(device_) + ")";
  }

 private:
  static constexpr std::size_t largest_group = 65536;
  static constexpr std::size_t most_partials = 64;  // 2^64 micro-batches

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), unsigned grid, const Arguments&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid);
    config.blockDim = dim3(threads_per_block);
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "cudaLaunchKernelEx");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  int device_ = 0;
  std::string name_;
  std::int64_t resident_blocks_ = 0;
  const void** sources_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> cuda_device(int local_rank) {
  return std::make_unique<CudaDevice>(local_rank);
}

}  // namespace shardmix::device
