#pragma once

/// What the stand-in's own tests share.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "emulation.hpp"

#define EXPECT_CUDA(call) EXPECT_EQ(call, cudaSuccess)
#define ASSERT_CUDA(call) ASSERT_EQ(call, cudaSuccess)
/// A launch that ends the process when it is carried out.
#define EXPECT_KERNEL_DEATH(call, sentence) \
  EXPECT_DEATH(                             \
      {                                     \
        call;                               \
        cudaDeviceSynchronize();            \
      },                                    \
      sentence)

namespace emulation::testing {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    EXPECT_CUDA(cudaMalloc(&data_, count * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    EXPECT_CUDA(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice));
    EXPECT_CUDA(cudaDeviceSynchronize());
  }
  ~DeviceArray() { EXPECT_CUDA(cudaFree(data_)); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return count_ * sizeof(T); }
  /// When the device is done with everything.
  [[nodiscard]] std::vector<T> values() const {
    EXPECT_CUDA(cudaDeviceSynchronize());
    std::vector<T> all(count_);
    EXPECT_CUDA(cudaMemcpy(all.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return all;
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

template <class... Parameters, class... Arguments>
void launch(dim3 grid, dim3 block, cudaStream_t stream, void (*kernel)(Parameters...),
            Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  EXPECT_CUDA(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

class StreamOwner {
 public:
  explicit StreamOwner(unsigned flags = cudaStreamNonBlocking) {
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream_, flags));
  }
  ~StreamOwner() { EXPECT_CUDA(cudaStreamDestroy(stream_)); }
  StreamOwner(const StreamOwner&) = delete;
  StreamOwner& operator=(const StreamOwner&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class EventOwner {
 public:
  explicit EventOwner(unsigned flags = cudaEventDisableTiming) {
    EXPECT_CUDA(cudaEventCreateWithFlags(&event_, flags));
  }
  ~EventOwner() { EXPECT_CUDA(cudaEventDestroy(event_)); }
  EventOwner(const EventOwner&) = delete;
  EventOwner& operator=(const EventOwner&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Keeps a stream busy until `*gate` isn't 0: of pinned memory.
inline void wait_for_gate(const volatile int* gate) {
  while (*gate == 0) __nanosleep(1000);
}

class Gate {
 public:
  Gate() {
    EXPECT_CUDA(cudaMallocHost(&memory_, sizeof(int)));
    *memory_ = 0;
  }
  ~Gate() {
    open();
    EXPECT_CUDA(cudaFreeHost(memory_));
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  /// What comes next in the stream waits until the gate is opened.
  void close(cudaStream_t stream) const { launch(1, 1, stream, &wait_for_gate, memory_); }
  void open() const { *static_cast<volatile int*>(memory_) = 1; }

 private:
  int* memory_ = nullptr;
};

}  // namespace emulation::testing
