#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

#include "device/cuda_reduce.hpp"
#include "device/cuda_stream.hpp"
#include "device/cuda_update.hpp"
#include "shardmix/error.hpp"

// Work is queued on one stream, and the host waits for it in synchronize() alone. What the host
// waits for otherwise, copies to and from it, goes beside that stream.

namespace shardmix::device {
namespace {

using namespace cuda;

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw DeviceError(std::string(call) + " failed: " + cudaGetErrorString(status));
  }
}

/// The kernel that was compiled for these arrays.
template <class Kernel, StateStorage State>
auto update_kernel_for(const UpdateArrays& arrays) {
  switch (arrays.weights) {
    case WeightStorage::remainder:
      return &update_kernel<Kernel, State, Format<bf16, WeightStorage::remainder>>;
    case WeightStorage::master:
      return arrays.dtype == bf16
                 ? &update_kernel<Kernel, State, Format<bf16, WeightStorage::master>>
                 : &update_kernel<Kernel, State, Format<fp16, WeightStorage::master>>;
    case WeightStorage::parameter:
      break;
  }
  return arrays.dtype == fp32
             ? &update_kernel<Kernel, State, Format<fp32, WeightStorage::parameter>>
         : arrays.dtype == bf16
             ? &update_kernel<Kernel, State, Format<bf16, WeightStorage::parameter>>
             : &update_kernel<Kernel, State, Format<fp16, WeightStorage::parameter>>;
}

/// While it lives, what this thread calls doesn't break a graph that the trainer captures
/// elsewhere.
class BesideCaptures {
 public:
  BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int place) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      throw DeviceError(
          "no GPU is visible to this process; check CUDA_VISIBLE_DEVICES and the driver, or use "
          "the host");
    }
    device_ = place % devices;
    check(cudaSetDevice(device_), "cudaSetDevice");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
    name_ = properties.name;
    multiprocessors_ = properties.multiProcessorCount;
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t* event : {&event_, &decided_, &places_[0], &places_[1]})
      check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }

  ~CudaDevice() override {
    if (keeps_memory()) return;  // what is queued may never end
    cudaStreamSynchronize(stream_);
    for (void* table : tables_) cudaFree(table);
    cudaFree(sink_);
    for (cudaEvent_t event : {event_, decided_, places_[0], places_[1]}) cudaEventDestroy(event);
    for (cudaStream_t stream : idle_streams_) cudaStreamDestroy(stream);
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
    clear(memory, bytes);
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
    if (task.sources.size() == 1 && task.partials.empty() && task.sum == nullptr) {
      square(task);
      return;
    }
    ReduceLaunch launch{.dtype = task.dtype,
                        .sources = static_cast<int>(task.sources.size()),
                        .partials = static_cast<int>(task.partials.size()),
                        .blocks = task.elements / block_elements,
                        .sum = task.sum,
                        .squares = reinterpret_cast<Digit*>(task.squares)};
    const std::size_t addresses = task.sources.size() + task.partials.size();
    std::vector<const void*> many(addresses > most_launched_sources ? addresses : 0);
    const void** to = many.empty() ? launch.at : many.data();
    std::ranges::copy(task.partials, std::ranges::copy(task.sources, to).out);
    if (!many.empty()) launch.table = on_device(many);
    const auto kernel = launch.sources <= most_gradients ? &reduce_kernel<1> : &reduce_kernel<16>;
    this->launch(kernel, warps_for(launch.blocks), launch);
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

  void remember(int place) override {
    check(cudaEventRecord(places_[place], stream_), "cudaEventRecord");
  }
  bool is_past(int place) override {
    check(cudaSetDevice(device_), "cudaSetDevice");  // of this thread
    const BesideCaptures beside;
    return is_done(cudaEventQuery(places_[place]), "cudaEventQuery");
  }

  void synchronize() override { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    beside_all([&](cudaStream_t stream) {
      check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
    });
  }
  void clear(void* memory, std::size_t bytes) override {
    if (bytes == 0) return;
    beside_all([&](cudaStream_t stream) {
      check(cudaMemsetAsync(memory, 0, bytes, stream), "cudaMemsetAsync");
    });
  }

  bool is_host() const noexcept override { return false; }
  std::unique_ptr<Device> beside() const override { return std::make_unique<CudaDevice>(device_); }
  void* queue() const noexcept override { return stream_; }
  void set_trainer_queue(void* stream) override { trainer_ = static_cast<cudaStream_t>(stream); }
  void follow_trainer() override { order(trainer_, stream_); }
  void lead_trainer() override { order(stream_, trainer_); }

  void begin_range(const char* name) noexcept override { nvtxRangePushA(name); }
  void end_range() noexcept override { nvtxRangePop(); }

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

  /// Has `work` queued on a stream that waits for no other, and waits for it. The default stream
  /// and a thread's own (cudaStreamPerThread) wait for the trainer's, and so perhaps for other
  /// ranks.
  template <class Work>
  void beside_all(const Work& work) {
    check(cudaSetDevice(device_), "cudaSetDevice");  // of this thread
    const BesideCaptures beside;
    cudaStream_t stream = nullptr;
    {
      const std::scoped_lock lock(idle_mutex_);
      if (!idle_streams_.empty()) {
        stream = idle_streams_.back();
        idle_streams_.pop_back();
      }
    }
    if (stream == nullptr)
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    work(stream);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    const std::scoped_lock lock(idle_mutex_);
    idle_streams_.push_back(stream);
  }

  void square(const ReduceTask& task) {
    if (task.squares == nullptr) return;
    const auto kernel = task.dtype == fp32   ? &squares_kernel<fp32>
                        : task.dtype == bf16 ? &squares_kernel<bf16>
                                             : &squares_kernel<fp16>;
    const std::int64_t blocks = task.elements / block_elements;
    launch(kernel, warps_for(blocks), task.sources.front(), blocks,
           reinterpret_cast<Digit*>(task.squares));
  }

  /// As many launches as the runs need.
  template <class Kernel>
  void update_with(const UpdateTask& task) {
    const auto kernel = task.arrays.state == StateStorage::full
                            ? update_kernel_for<Kernel, StateStorage::full>(task.arrays)
                            : update_kernel_for<Kernel, StateStorage::compact>(task.arrays);
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

  /// A copy on the device, until the next one takes its place behind what is queued now. A table
  /// that was too small stays until the end: to free it would wait for what is queued.
  const void* const* on_device(const std::vector<const void*>& addresses) {
    const std::size_t bytes = addresses.size() * sizeof(void*);
    if (bytes > table_bytes_) {
      const std::size_t room = std::bit_ceil(bytes);
      void* table = nullptr;
      check(cudaMalloc(&table, room), "cudaMalloc");
      tables_.push_back(table);
      table_bytes_ = room;
    }
    check(cudaMemcpyAsync(tables_.back(), addresses.data(), bytes, cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    return static_cast<const void* const*>(tables_.back());
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
  std::array<cudaEvent_t, 2> places_{};  ///< of remember()
  std::mutex idle_mutex_;
  std::vector<cudaStream_t> idle_streams_;  ///< of beside_all()
  std::map<const void*, int> resident_;     ///< groups of threads of each kernel
  std::vector<void*> tables_;               ///< of addresses; the last one is in use
  std::size_t table_bytes_ = 0;
  unsigned* sink_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> cuda_device(int place) {
  return std::make_unique<CudaDevice>(place);
}

}  // namespace shardmix::device
