// NCCL's calls between ranks, against sums that this file makes itself.

#include <mpi.h>
#include <nccl.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <string>

#include "support.hpp"

namespace emulation::testing {
namespace {

#define EXPECT_NCCL(call) EXPECT_EQ(call, ncclSuccess)
#define ASSERT_NCCL(call) ASSERT_EQ(call, ncclSuccess)

class Nccl : public ::testing::Test {
 protected:
  void SetUp() override {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    ncclUniqueId id{};
    if (rank_ == 0) {
      ASSERT_NCCL(ncclGetUniqueId(&id));
    }
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = is_blocking_ ? 1 : 0;
    const ncclResult_t begun = ncclCommInitRankConfig(&communicator_, size_, id, rank_, &config);
    ASSERT_EQ(begun, is_blocking_ ? ncclSuccess : ncclInProgress);
    if (!is_blocking_) settle();
    ASSERT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void TearDown() override {
    if (communicator_ != nullptr) {
      EXPECT_NCCL(ncclCommDestroy(communicator_));
    }
    EXPECT_CUDA(cudaStreamDestroy(stream_));
    MPI_Barrier(MPI_COMM_WORLD);
  }

  /// Waits until a call that doesn't block has been carried out. Returns how often it wasn't.
  int settle() const {
    int polls = 0;
    ncclResult_t state = ncclInProgress;
    for (;; ++polls) {
      EXPECT_NCCL(ncclCommGetAsyncError(communicator_, &state));
      if (state != ncclInProgress) break;
    }
    EXPECT_NCCL(state);
    return polls;
  }

  bool is_blocking_ = true;
  int rank_ = 0;
  int size_ = 1;
  ncclComm_t communicator_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

class NcclInProgress : public Nccl {
 protected:
  NcclInProgress() { is_blocking_ = false; }
};

/// Small whole numbers, exact in all types.
int number(int rank, std::size_t i) {
  return static_cast<int>((i * 7 + static_cast<std::size_t>(rank) * 3) % 11);
}

std::uint16_t bf16(float x) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
}
/// Whole numbers up to 2048.
std::uint16_t fp16(float x) {
  if (x == 0.0f) return 0;
  const int exponent = std::ilogb(x);
  return static_cast<std::uint16_t>((exponent + 15) << 10 |
                                    static_cast<int>(std::ldexp(x, 10 - exponent) - 1024.0f));
}

template <class T>
struct Type {
  ncclDataType_t type;
  T (*make)(int value);
};

template <class T>
void expect_reductions(const Type<T>& type, int rank, int size, ncclComm_t communicator,
                       cudaStream_t stream) {
  for (const std::size_t count : {1u, 255u, 100'003u}) {
    std::vector<T> values(count * static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = type.make(number(rank, i));
    for (const ncclRedOp_t op : {ncclSum, ncclMax, ncclMin}) {
      const auto expected = [&](std::size_t i) {
        int total = number(0, i);
        for (int r = 1; r < size; ++r) {
          const int other = number(r, i);
          total = op == ncclSum   ? total + other
                  : op == ncclMax ? std::max(total, other)
                                  : std::min(total, other);
        }
        return type.make(total);
      };
      DeviceArray<T> from(values);
      DeviceArray<T> all(values.size());
      DeviceArray<T> part(count);
      EXPECT_NCCL(ncclAllReduce(from.data(), all.data(), values.size(), type.type, op, communicator,
                                stream));
      EXPECT_NCCL(
          ncclReduceScatter(from.data(), part.data(), count, type.type, op, communicator, stream));
      EXPECT_NCCL(ncclAllReduce(from.data(), from.data(), values.size(), type.type, op,
                                communicator, stream));
      const auto sums = all.values();
      const auto slice = part.values();
      for (std::size_t i = 0; i < sums.size(); ++i) ASSERT_EQ(sums[i], expected(i)) << i;
      for (std::size_t i = 0; i < count; ++i)
        ASSERT_EQ(slice[i], expected(static_cast<std::size_t>(rank) * count + i)) << i;
      ASSERT_EQ(from.values(), sums);  // in place
    }
  }
}

TEST_F(Nccl, ReducesEveryType) {
  const auto check = [&]<class T>(ncclDataType_t type, T (*make)(int)) {
    SCOPED_TRACE(static_cast<int>(type));
    expect_reductions<T>({type, make}, rank_, size_, communicator_, stream_);
  };
  check(
      ncclInt8, +[](int v) { return static_cast<std::int8_t>(v); });
  check(
      ncclUint8, +[](int v) { return static_cast<std::uint8_t>(v); });
  check(
      ncclInt64, +[](int v) { return static_cast<std::int64_t>(v); });
  check(
      ncclUint64, +[](int v) { return static_cast<std::uint64_t>(v); });
  check(
      ncclFloat32, +[](int v) { return static_cast<float>(v); });
  check(
      ncclFloat64, +[](int v) { return static_cast<double>(v); });
  check(
      ncclFloat16, +[](int v) { return fp16(static_cast<float>(v)); });
  check(
      ncclBfloat16, +[](int v) { return bf16(static_cast<float>(v)); });
}

TEST_F(Nccl, GathersAndBroadcasts) {
  const std::size_t count = 70'001;
  std::vector<float> values(count, static_cast<float>(rank_ + 1));
  DeviceArray<float> own(values);
  DeviceArray<float> all(count * static_cast<std::size_t>(size_));
  EXPECT_NCCL(ncclAllGather(own.data(), all.data(), count, ncclFloat32, communicator_, stream_));
  const auto gathered = all.values();
  for (std::size_t i = 0; i < gathered.size(); ++i)
    ASSERT_EQ(gathered[i], static_cast<float>(i / count + 1));
  for (int root = 0; root < size_; ++root) {
    DeviceArray<float> to(count);
    EXPECT_NCCL(
        ncclBroadcast(own.data(), to.data(), count, ncclFloat32, root, communicator_, stream_));
    EXPECT_EQ(to.values(), std::vector<float>(count, static_cast<float>(root + 1)));
  }
}

TEST_F(Nccl, MayRefuseTwoRanksOnOneGpu) {
  setenv("EMULATION_NCCL_DUPLICATE", "0", 1);
  ncclUniqueId id{};
  if (rank_ == 0) {
    ASSERT_NCCL(ncclGetUniqueId(&id));
  }
  MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
  ncclComm_t other = nullptr;
  EXPECT_EQ(ncclCommInitRank(&other, size_, id, rank_),
            size_ == 1 ? ncclSuccess : ncclInvalidUsage);
  if (size_ > 1) {
    EXPECT_NE(std::string(ncclGetLastError(other)).find("Duplicate GPU"), std::string::npos);
  }
  EXPECT_NCCL(ncclCommAbort(other));
  setenv("EMULATION_NCCL_DUPLICATE", "1", 1);
}

/// All to all, several messages a pair, some of nothing.
TEST_F(NcclInProgress, SendsAndReceivesInGroups) {
  int polls = 0;
  for (int round = 0; round < 20; ++round) {
    const std::size_t count = static_cast<std::size_t>(round) * 211;
    const auto ranks = static_cast<std::size_t>(size_);
    std::vector<int> values(count * ranks);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<int>(i) + 100'000 * rank_ + round;
    DeviceArray<int> from(std::max<std::size_t>(values.size(), 1));
    DeviceArray<int> to(std::max<std::size_t>(values.size(), 1));
    EXPECT_CUDA(cudaMemcpy(from.data(), values.data(), values.size() * 4, cudaMemcpyHostToDevice));
    EXPECT_CUDA(cudaDeviceSynchronize());
    EXPECT_NCCL(ncclGroupStart());
    for (int distance = 0; distance < size_; ++distance) {
      const int peer = (rank_ + distance) % size_;
      for (int piece = 0; piece < 3; ++piece) {
        const std::size_t begin =
            static_cast<std::size_t>(peer) * count + count * static_cast<std::size_t>(piece) / 3;
        const std::size_t end = static_cast<std::size_t>(peer) * count +
                                count * static_cast<std::size_t>(piece + 1) / 3;
        EXPECT_NCCL(
            ncclRecv(to.data() + begin, end - begin, ncclInt32, peer, communicator_, stream_));
        EXPECT_NCCL(
            ncclSend(from.data() + begin, end - begin, ncclInt32, peer, communicator_, stream_));
      }
    }
    EXPECT_EQ(ncclGroupEnd(), ncclInProgress);
    polls += settle();
    const auto received = to.values();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto peer = static_cast<int>(i / count);
      ASSERT_EQ(received[i], static_cast<int>(i % count + static_cast<std::size_t>(rank_) * count) +
                                 100'000 * peer + round);
    }
  }
  EXPECT_GT(polls, 0);
}

TEST_F(NcclInProgress, RefusesCallsWhileOneIsInProgress) {
  const DeviceArray<int> data(std::vector<int>{1, 2, 3});
  EXPECT_EQ(ncclAllReduce(data.data(), data.data(), 3, ncclInt32, ncclSum, communicator_, stream_),
            ncclInProgress);
  set_strict(false);
  EXPECT_EQ(ncclAllReduce(data.data(), data.data(), 3, ncclInt32, ncclSum, communicator_, stream_),
            ncclInvalidUsage);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  set_strict(true);
  (void)cudaGetLastError();
  settle();
  const auto sums = data.values();
  EXPECT_EQ(sums[2], 3 * size_);
}

/// A missing rank leaves the others waiting, and abort ends that.
TEST_F(NcclInProgress, AbortEndsWaits) {
  const DeviceArray<int> data(std::vector<int>{1});
  if (rank_ != size_ - 1 || size_ == 1) {
    EXPECT_EQ(
        ncclAllReduce(data.data(), data.data(), 1, ncclInt32, ncclSum, communicator_, stream_),
        ncclInProgress);
    settle();
    if (size_ > 1) {
      usleep(20'000);
      EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);
    }
  }
  EXPECT_NCCL(ncclCommAbort(communicator_));
  communicator_ = nullptr;
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
}

TEST_F(NcclInProgress, FinalizeWaitsForWhatWasBegun) {
  const DeviceArray<int> data(std::vector<int>{1});
  EXPECT_EQ(ncclAllReduce(data.data(), data.data(), 1, ncclInt32, ncclSum, communicator_, stream_),
            ncclInProgress);
  settle();
  EXPECT_EQ(ncclCommFinalize(communicator_), ncclInProgress);
  settle();
  EXPECT_CUDA(cudaStreamQuery(stream_));
}

TEST_F(NcclInProgress, WindowsComeWhenAllRanksHaveCalled) {
  void* memory = nullptr;
  ASSERT_NCCL(ncclMemAlloc(&memory, 10'000));
  for (const char* has_windows : {"1", "0"}) {
    setenv("EMULATION_NCCL_WINDOWS", has_windows, 1);
    ncclWindow_t window = nullptr;
    EXPECT_EQ(ncclCommWindowRegister(communicator_, memory, 10'000, &window, 0), ncclInProgress);
    EXPECT_EQ(window, nullptr);
    settle();
    EXPECT_EQ(window != nullptr, has_windows == std::string("1"));
    if (window != nullptr) {
      EXPECT_NCCL(ncclCommWindowDeregister(communicator_, window));
    }
  }
  setenv("EMULATION_NCCL_WINDOWS", "1", 1);
  EXPECT_NCCL(ncclMemFree(memory));
}

TEST_F(Nccl, RegistersMemory) {
  void* memory = nullptr;
  ASSERT_NCCL(ncclMemAlloc(&memory, 10'000));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % NCCL_WIN_REQUIRED_ALIGNMENT, 0u);
  void* handle = nullptr;
  ncclWindow_t window = nullptr;
  EXPECT_NCCL(ncclCommRegister(communicator_, memory, 10'000, &handle));
  EXPECT_NCCL(
      ncclCommWindowRegister(communicator_, memory, 10'000, &window, NCCL_WIN_COLL_SYMMETRIC));
  EXPECT_NCCL(ncclCommDeregister(communicator_, handle));
  set_strict(false);
  EXPECT_EQ(ncclMemFree(memory), ncclInvalidUsage);  // there is the window
  EXPECT_NCCL(ncclCommWindowDeregister(communicator_, window));
  EXPECT_EQ(ncclCommRegister(communicator_, memory, 20'000, &handle), ncclInvalidArgument);
  cudaIpcMemHandle_t ipc;
  EXPECT_EQ(cudaIpcGetMemHandle(&ipc, memory), cudaErrorInvalidValue);
  set_strict(true);
  (void)cudaGetLastError();
  EXPECT_NCCL(ncclMemFree(memory));
}

}  // namespace
}  // namespace emulation::testing
