#pragma once

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <utility>

#include "shardmix/error.hpp"

namespace shardmix::comm {

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw DeviceError(fmt::format("{} failed: {}", call, cudaGetErrorString(status)));
}

/// A point in a stream's work.
class CudaEvent {
 public:
  explicit CudaEvent(unsigned flags = cudaEventDisableTiming) {
    check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
  }
  ~CudaEvent() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }

  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// What is queued on `stream` from now on waits for it.
  void hold(cudaStream_t stream) const {
    check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }
  /// Whether the work before it is done.
  [[nodiscard]] bool is_reached() const {
    const cudaError_t status = cudaEventQuery(event_);
    if (status != cudaErrorNotReady) check(status, "cudaEventQuery");
    return status == cudaSuccess;
  }
  [[nodiscard]] cudaEvent_t get() const noexcept { return event_; }

  /// One of another process.
  [[nodiscard]] static CudaEvent open(const cudaIpcEventHandle_t& handle) {
    cudaEvent_t event = nullptr;
    check(cudaIpcOpenEventHandle(&event, handle), "cudaIpcOpenEventHandle");
    return CudaEvent(event);
  }

 private:
  explicit CudaEvent(cudaEvent_t event) noexcept : event_(event) {}
  cudaEvent_t event_ = nullptr;
};

}  // namespace shardmix::comm
