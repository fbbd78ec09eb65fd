#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "device/block_reduce.hpp"
#include "device/block_update.hpp"
#include "device/decision.hpp"
#include "shardmix/error.hpp"

// Work is queued on one stream, and the host waits for it in synchronize() alone. What a kernel
// needs beside its arrays comes with the launch.

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

/// A run of a task with its kernel.
template <class Kernel>
struct Run {
  std::int64_t end = 0;  ///< in blocks
  Kernel kernel = {};
};

/// What one launch works on.
inline constexpr int most_runs = 32;
template <class Kernel>
struct UpdateLaunch {
  UpdateArrays arrays;
  std::int64_t begin = 0;  ///< in blocks
  std::int64_t end = 0;
  Run<Kernel> runs[most_runs] = {};
  const UpdateControl* control = nullptr;
};

/// A warp looks up the run of each of its blocks.
template <class Kernel, StateStorage State>
__global__ void __launch_bounds__(threads_per_block, 2)
    update_kernel(const __grid_constant__ UpdateLaunch<Kernel> launch) {
  if (launch.control->skip != 0) return;
  const float scale = launch.control->gradient_scale;
  const UpdateArrays& a = launch.arrays;
  const int first = static_cast<int>(threadIdx.x % lanes) * own;
  const bool rounds = rounds_parameters(a);
  int r = 0;
  for (std::int64_t block = launch.begin + warp_number(); block < launch.end;
       block += warp_count()) {
    while (block >= launch.runs[r].end) ++r;
    const Kernel& kernel = launch.runs[r].kernel;
    const std::int64_t begin = block * block_elements + first;
    const std::int64_t number = a.first_block + block;
    alignas(16) float g_buffer[own];
    alignas(16) float theta_buffer[own];
    const float* g = load_gradient<own>(a, begin, g_buffer);
    float* theta = load_weights<own>(a, begin, theta_buffer);
    States<own, State> states;
    if constexpr (State == StateStorage::full) {
      states.update(kernel, a, begin, scale, g, theta);
    } else {
      math::Largest largest = states.update(kernel, a, begin, scale, g, theta);
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

/// Sources that come with the launch; the addresses of partial sums follow.
inline constexpr int most_launched_sources = 64;
struct ReduceLaunch {
  DType dtype;
  int sources;
  int partials;
  std::int64_t blocks;
  float* sum;
  double* block_squares;
  const void* const* table = nullptr;  ///< null: `at`
  const void* at[most_launched_sources] = {};
};

/// `Levels` as in sum_tree(): few of them stay in registers.
template <int Levels>
__global__ void __launch_bounds__(threads_per_block)
    reduce_kernel(const __grid_constant__ ReduceLaunch launch) {
  const void* const* sources = launch.table != nullptr ? launch.table : launch.at;
  const int lane = static_cast<int>(threadIdx.x % lanes);
  for (std::int64_t block = warp_number(); block < launch.blocks; block += warp_count()) {
    const std::int64_t begin = block * block_elements + lane * own;
    alignas(16) float total[own];
    sum_tree<own, Levels>(launch.dtype, sources, launch.sources, begin, total);
    add_partials<own>(reinterpret_cast<const float* const*>(sources + launch.sources),
                      launch.partials, begin, total);
    if (launch.sum != nullptr) store<own>(total, launch.sum + begin);
    if (launch.block_squares == nullptr) continue;
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
      launch.block_squares[block] = usable ? squares : __longlong_as_double(0x7FF0000000000000LL);
  }
}

using Digit = unsigned long long;  // what atomics add; int64 wraps alike

/// Adds to `*sum`. Each group of threads adds up its own first.
__global__ void __launch_bounds__(threads_per_block)
    sum_squares_kernel(const double* block_squares, std::int64_t blocks, Digit* sum) {
  __shared__ Digit own_sum[square_sum_values];
  if (threadIdx.x < square_sum_values) own_sum[threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < blocks; i += stride) {
    if (is_usable_square(block_squares[i])) {
      math::ExactSum::split(block_squares[i], [&](int digit, std::uint64_t part) {
        atomicAdd(&own_sum[digit], static_cast<Digit>(part));
      });
    } else {
      atomicAdd(&own_sum[math::ExactSum::digits], Digit{1});
    }
  }
  __syncthreads();
  if (threadIdx.x < square_sum_values) atomicAdd(&sum[threadIdx.x], own_sum[threadIdx.x]);
}

/// A thread a value.
__global__ void add_sums_kernel(const std::int64_t* sums, std::int64_t count, std::int64_t* total) {
  std::int64_t all = 0;
  for (std::int64_t i = 0; i < count; ++i) all += sums[i * square_sum_values + threadIdx.x];
  total[threadIdx.x] = all;
}

__global__ void decide_kernel(DecideTask task) {
  *task.copy = *task.control = decision(task);
}

/// A thread moves 16 bytes at a time; `mask` is 0, which the compiler doesn't know.
__global__ void __launch_bounds__(threads_per_block)
    stream_kernel(uint4* data, std::int64_t count, bool written, unsigned mask, unsigned* sink) {
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
    multiprocessors_ = properties.multiProcessorCount;
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t* event : {&event_, &decided_})
      check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }

  ~CudaDevice() override {
    cudaStreamSynchronize(stream_);
    cudaFree(table_);
    cudaFree(sink_);
    cudaEventDestroy(decided_);
    cudaEventDestroy(event_);
    cudaStreamDestroy(stream_);
  }

  void* allocate(std::size_t bytes, MemoryKind kind) override {
    void* memory = nullptr;
    if (kind == MemoryKind::host) {
      check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), "cudaHostAlloc");
      std::memset(memory, 0, bytes);
      return memory;
    }
    if (const cudaError_t status = cudaMalloc(&memory, bytes); status != cudaSuccess) {
      (void)cudaGetLastError();  // forgotten: others fit
      std::size_t free = 0;
      std::size_t all = 0;
      cudaMemGetInfo(&free, &all);
      throw DeviceError("GPU " + std::to_string(device_) + " has no " + std::to_string(bytes) +
                        " bytes to give (" + std::to_string(free) + " of " + std::to_string(all) +
                        " are free): " + cudaGetErrorString(status) +
                        "; shard over more ranks, or keep less (state compact, shorter dtypes)");
    }
    zero(memory, bytes);
    synchronize();
    return memory;
  }

  void release(void* memory, std::size_t /*bytes*/, MemoryKind kind) noexcept override {
    if (kind == MemoryKind::host)
      cudaFreeHost(memory);
    else
      cudaFree(memory);
  }

  void discard(std::byte* /*memory*/, std::size_t /*bytes*/) override {
    throw DeviceError("sharded gradients (shard_gradients) are there on hosts alone");
  }

  void reduce(const ReduceTask& task) override {
    if (task.elements == 0) return;
    ReduceLaunch launch{.dtype = task.dtype,
                        .sources = static_cast<int>(task.sources.size()),
                        .partials = static_cast<int>(task.partials.size()),
                        .blocks = task.elements / block_elements,
                        .sum = task.sum,
                        .block_squares = task.block_squares};
    const std::size_t addresses = task.sources.size() + task.partials.size();
    std::vector<const void*> many(addresses > most_launched_sources ? addresses : 0);
    const void** to = many.empty() ? launch.at : many.data();
    std::ranges::copy(task.partials, std::ranges::copy(task.sources, to).out);
    if (!many.empty()) launch.table = on_device(many);
    const auto kernel = launch.sources <= most_gradients ? &reduce_kernel<1> : &reduce_kernel<16>;
    this->launch(kernel, warps_for(launch.blocks), launch);
  }

  void sum_squares(const double* block_squares, std::int64_t blocks, SquareSum* sum) override {
    zero(sum, sizeof *sum);
    if (blocks == 0) return;
    launch(&sum_squares_kernel, (blocks + threads_per_block - 1) / threads_per_block, block_squares,
           blocks, reinterpret_cast<Digit*>(sum));
  }

  void add_sums(const SquareSum* sums, std::int64_t count, SquareSum* total) override {
    launch_one(&add_sums_kernel, square_sum_values, reinterpret_cast<const std::int64_t*>(sums),
               count, reinterpret_cast<std::int64_t*>(total));
  }

  void decide(const DecideTask& task) override {
    launch_one(&decide_kernel, 1, task);
    check(cudaEventRecord(decided_, stream_), "cudaEventRecord");
  }

  void update(const UpdateTask& task) override {
    if (task.elements == 0) return;
    std::visit([&]<class Kernel>(const Kernel&) { update_with<Kernel>(task); },
               task.runs.front().kernel);
  }

  void stream(const StreamTask& task) override {
    if (sink_ == nullptr) check(cudaMalloc(&sink_, sizeof(unsigned)), "cudaMalloc");
    for (const StreamArray& a : task.arrays) {
      const std::int64_t count = task.blocks * a.bytes_per_block / std::int64_t{sizeof(uint4)};
      launch(&stream_kernel, warps_for(task.blocks), reinterpret_cast<uint4*>(a.data), count,
             a.written, 0u, sink_);
    }
  }

  void zero(void* memory, std::size_t bytes) override {
    if (bytes > 0) check(cudaMemsetAsync(memory, 0, bytes, stream_), "cudaMemsetAsync");
  }

  void queue_copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
  }

  bool is_idle() override { return is_done(cudaStreamQuery(stream_), "cudaStreamQuery"); }
  bool is_decided() override { return is_done(cudaEventQuery(decided_), "cudaEventQuery"); }

  void synchronize() override { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    check(cudaSetDevice(device_), "cudaSetDevice");  // of this thread
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cudaStreamPerThread),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
  }

  bool is_host() const noexcept override { return false; }
  void* queue() const noexcept override { return stream_; }
  void set_trainer_queue(void* stream) override { trainer_ = static_cast<cudaStream_t>(stream); }
  void follow_trainer() override { order(trainer_, stream_); }
  void lead_trainer() override { order(stream_, trainer_); }

  std::string description() const override {
    return name_ + " (GPU " + std::to_string(device_) + ")";
  }

 private:
  static bool is_done(cudaError_t status, const char* call) {
    if (status != cudaErrorNotReady) check(status, call);
    return status == cudaSuccess;
  }

  /// What is queued on `second` from now on waits for what is queued on `first`.
  void order(cudaStream_t first, cudaStream_t second) {
    check(cudaEventRecord(event_, first), "cudaEventRecord");
    check(cudaStreamWaitEvent(second, event_, 0), "cudaStreamWaitEvent");
  }

  /// As many launches as the runs need.
  template <class Kernel>
  void update_with(const UpdateTask& task) {
    const auto kernel = task.arrays.state == StateStorage::full
                            ? &update_kernel<Kernel, StateStorage::full>
                            : &update_kernel<Kernel, StateStorage::compact>;
    UpdateLaunch<Kernel> launch{.arrays = task.arrays, .control = task.control};
    for (std::size_t first = 0; first < task.runs.size(); first += most_runs) {
      const auto runs =
          task.runs.subspan(first, std::min(std::size_t{most_runs}, task.runs.size() - first));
      launch.begin = launch.end;
      for (std::size_t r = 0; r < runs.size(); ++r) {
        launch.end = runs[r].end / block_elements;
        launch.runs[r] = {launch.end, std::get<Kernel>(runs[r].kernel)};
      }
      this->launch(kernel, warps_for(launch.end - launch.begin), launch);
    }
  }

  /// A copy on the device, until the next one takes its place behind what is queued now.
  const void* const* on_device(const std::vector<const void*>& addresses) {
    const std::size_t bytes = addresses.size() * sizeof(void*);
    if (addresses.size() > table_size_) {
      synchronize();
      check(cudaFree(table_), "cudaFree");
      table_ = nullptr;
      check(cudaMalloc(&table_, bytes), "cudaMalloc");
      table_size_ = addresses.size();
    }
    check(cudaMemcpyAsync(table_, addresses.data(), bytes, cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    return static_cast<const void* const*>(table_);
  }

  /// Groups of threads with a warp for each block.
  static std::int64_t warps_for(std::int64_t blocks) {
    return (blocks * lanes + threads_per_block - 1) / threads_per_block;
  }

  /// `groups` of threads, or as many as are resident at once: a kernel's loop goes over the rest.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), std::int64_t groups, const Arguments&... arguments) {
    int& resident = resident_[reinterpret_cast<const void*>(kernel)];
    if (resident == 0) {
      check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads_per_block, 0),
            "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
      resident = std::max(1, resident * multiprocessors_);
    }
    launch_groups(kernel, static_cast<unsigned>(std::min<std::int64_t>(groups, resident)),
                  threads_per_block, arguments...);
  }
  template <class... Parameters, class... Arguments>
  void launch_one(void (*kernel)(Parameters...), unsigned threads, const Arguments&... arguments) {
    launch_groups(kernel, 1, threads, arguments...);
  }
  template <class... Parameters, class... Arguments>
  void launch_groups(void (*kernel)(Parameters...), unsigned groups, unsigned threads,
                     const Arguments&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(groups);
    config.blockDim = dim3(threads);
    config.stream = stream_;
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "cudaLaunchKernelEx");
  }

  int device_ = 0;
  std::string name_;
  int multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaStream_t trainer_ = nullptr;       ///< the default stream
  cudaEvent_t event_ = nullptr;          ///< of order()
  cudaEvent_t decided_ = nullptr;        ///< behind the last decide()
  std::map<const void*, int> resident_;  ///< groups of threads of each kernel
  void* table_ = nullptr;
  std::size_t table_size_ = 0;
  unsigned* sink_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> cuda_device(int local_rank) {
  return std::make_unique<CudaDevice>(local_rank);
}

}  // namespace shardmix::device
