// Memory and events between processes: each rank opens its neighbour's.

#include <mpi.h>

#include "support.hpp"

namespace emulation::testing {
namespace {

__global__ void fill_from(int* to, int count, int first) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] = first + i;
}
__global__ void add_from(const int* from, int* to, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] += from[i];
}

class Ipc : public ::testing::Test {
 protected:
  Ipc() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    next_ = (rank_ + 1) % size_;
    previous_ = (rank_ + size_ - 1) % size_;
  }
  void SetUp() override {
    if (size_ == 1) GTEST_SKIP() << "needs two processes";
  }
  void TearDown() override { MPI_Barrier(MPI_COMM_WORLD); }

  /// What the next rank gives.
  template <class T>
  [[nodiscard]] T from_next(const T& own) const {
    T other;
    MPI_Sendrecv(&own, sizeof own, MPI_BYTE, previous_, 0, &other, sizeof other, MPI_BYTE, next_, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return other;
  }

  int rank_ = 0;
  int size_ = 1;
  int next_ = 0;
  int previous_ = 0;
};

constexpr int count = 5'003;

TEST_F(Ipc, MemoryIsReadAndWrittenByPeers) {
  DeviceArray<int> own(count);
  cudaIpcMemHandle_t handle;
  ASSERT_CUDA(cudaIpcGetMemHandle(&handle, own.data()));
  void* memory = nullptr;
  ASSERT_CUDA(cudaIpcOpenMemHandle(&memory, from_next(handle), cudaIpcMemLazyEnablePeerAccess));
  auto* peer = static_cast<int*>(memory);
  launch(20, 256, nullptr, &fill_from, peer, count, 1000 * rank_);
  ASSERT_CUDA(cudaDeviceSynchronize());
  MPI_Barrier(MPI_COMM_WORLD);
  const auto values = own.values();
  for (int i = 0; i < count; ++i)
    ASSERT_EQ(values[static_cast<std::size_t>(i)], 1000 * previous_ + i);
  cudaPointerAttributes attributes{};
  EXPECT_CUDA(cudaPointerGetAttributes(&attributes, peer));
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  int last = 0;
  EXPECT_CUDA(cudaMemcpy(&last, peer + count - 1, sizeof last, cudaMemcpyDeviceToHost));
  EXPECT_EQ(last, 1000 * rank_ + count - 1);
  void* again = nullptr;
  EXPECT_CUDA(cudaIpcOpenMemHandle(&again, from_next(handle), cudaIpcMemLazyEnablePeerAccess));
  EXPECT_EQ(again, memory);
  EXPECT_CUDA(cudaIpcCloseMemHandle(again));
  EXPECT_CUDA(cudaIpcCloseMemHandle(memory));
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST_F(Ipc, EventsOrderStreamsOfPeers) {
  set_delay(200);
  for (int round = 0; round < 30; ++round) {
    DeviceArray<int> own(count);
    DeviceArray<int> sum(std::vector<int>(count, 0));
    EventOwner filled(cudaEventDisableTiming | cudaEventInterprocess);
    const StreamOwner stream;
    cudaIpcMemHandle_t handle;
    cudaIpcEventHandle_t event_handle;
    ASSERT_CUDA(cudaIpcGetMemHandle(&handle, own.data()));
    ASSERT_CUDA(cudaIpcGetEventHandle(&event_handle, filled));
    launch(20, 256, stream, &fill_from, own.data(), count, rank_ + round);
    ASSERT_CUDA(cudaEventRecord(filled, stream));
    void* peer = nullptr;
    cudaEvent_t peer_filled = nullptr;
    ASSERT_CUDA(cudaIpcOpenMemHandle(&peer, from_next(handle), cudaIpcMemLazyEnablePeerAccess));
    ASSERT_CUDA(cudaIpcOpenEventHandle(&peer_filled, from_next(event_handle)));
    const StreamOwner reading;
    ASSERT_CUDA(cudaStreamWaitEvent(reading, peer_filled, 0));
    launch(20, 256, reading, &add_from, static_cast<const int*>(peer), sum.data(), count);
    const auto values = sum.values();
    for (int i = 0; i < count; ++i)
      ASSERT_EQ(values[static_cast<std::size_t>(i)], next_ + round + i);
    EXPECT_CUDA(cudaEventQuery(peer_filled));
    EXPECT_CUDA(cudaEventDestroy(peer_filled));
    EXPECT_CUDA(cudaIpcCloseMemHandle(peer));
    MPI_Barrier(MPI_COMM_WORLD);
  }
  set_delay(20);
}

TEST_F(Ipc, RefusesWhatMakesNoSense) {
  set_strict(false);
  {
    DeviceArray<int> own(count);
    cudaIpcMemHandle_t handle;
    EXPECT_EQ(cudaIpcGetMemHandle(&handle, own.data() + 1), cudaErrorInvalidValue);
    EXPECT_EQ(cudaIpcGetMemHandle(&handle, &handle), cudaErrorInvalidValue);
    ASSERT_CUDA(cudaIpcGetMemHandle(&handle, own.data()));
    void* memory = nullptr;
    EXPECT_EQ(cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess),
              cudaErrorDeviceUninitialized);
    EXPECT_EQ(cudaIpcOpenMemHandle(&memory, cudaIpcMemHandle_t{}, cudaIpcMemLazyEnablePeerAccess),
              cudaErrorInvalidValue);
    EXPECT_EQ(cudaIpcCloseMemHandle(own.data()), cudaErrorInvalidValue);
    ASSERT_CUDA(cudaIpcOpenMemHandle(&memory, from_next(handle), cudaIpcMemLazyEnablePeerAccess));
    MPI_Barrier(MPI_COMM_WORLD);
    EXPECT_EQ(cudaFree(own.data()), cudaErrorInvalidValue);  // the neighbour has it open
    EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);      // it isn't ours
    MPI_Barrier(MPI_COMM_WORLD);
    EXPECT_CUDA(cudaIpcCloseMemHandle(memory));
    EventOwner event;
    cudaIpcEventHandle_t event_handle;
    EXPECT_EQ(cudaIpcGetEventHandle(&event_handle, event), cudaErrorInvalidResourceHandle);
    MPI_Barrier(MPI_COMM_WORLD);
  }
  (void)cudaGetLastError();
  set_strict(true);
}

}  // namespace
}  // namespace emulation::testing
