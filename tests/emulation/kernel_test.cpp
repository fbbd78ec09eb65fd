// Kernels: built-in variables, barriers, exchanges in warps, atomics; and what is refused.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support.hpp"

namespace emulation::testing {
namespace {

__global__ void write_place(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned size = blockDim.x * blockDim.y * blockDim.z;
  out[block * size + thread] += static_cast<int>(block * 1000 + thread);
}

TEST(Kernels, HaveEveryThreadOnce) {
  const dim3 grid(3, 2, 2);
  const dim3 block(7, 5, 3);
  DeviceArray<int> out(std::vector<int>(12 * 105, 0));
  launch(grid, block, nullptr, &write_place, out.data());
  const std::vector<int> values = out.values();
  for (int i = 0; i < 12 * 105; ++i)
    ASSERT_EQ(values[static_cast<std::size_t>(i)], i / 105 * 1000 + i % 105);
}

__global__ void reverse_in_shared(int* data) {
  __shared__ int room[1024];
  room[threadIdx.x] = data[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  data[blockIdx.x * blockDim.x + threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}

TEST(Kernels, MeetAtBarriers) {
  for (const unsigned threads : {1u, 31u, 33u, 257u, 1024u}) {
    std::vector<int> numbers(threads * 5);
    std::iota(numbers.begin(), numbers.end(), 0);
    DeviceArray<int> data(numbers);
    launch(5, threads, nullptr, &reverse_in_shared, data.data());
    for (std::size_t b = 0; b < 5; ++b)
      std::reverse(numbers.begin() + static_cast<std::ptrdiff_t>(b * threads),
                   numbers.begin() + static_cast<std::ptrdiff_t>((b + 1) * threads));
    ASSERT_EQ(data.values(), numbers) << threads;
  }
}

/// Forgets the barrier.
__global__ void reverse_without_barrier(int* data) {
  __shared__ int room[1024];
  room[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}

TEST(Kernels, ShowABarrierThatIsMissing) {
  std::vector<int> numbers(256);
  std::iota(numbers.begin(), numbers.end(), 1);
  DeviceArray<int> data(numbers);
  launch(1, 256, nullptr, &reverse_without_barrier, data.data());
  std::reverse(numbers.begin(), numbers.end());
  EXPECT_NE(data.values(), numbers);
}

__global__ void count_after_ends(int* out) {
  if (threadIdx.x == 0 || threadIdx.x == blockDim.x - 1) return;
  __syncthreads();
  const int came = __syncthreads_count(threadIdx.x % 2 == 0);
  if (threadIdx.x == 1) *out = came;
}

TEST(Kernels, DontWaitForThreadsThatEnded) {
  DeviceArray<int> out(1);
  launch(1, 100, nullptr, &count_after_ends, out.data());
  EXPECT_EQ(out.values()[0], 49);
}

struct Exchanged {
  float broadcast;
  double crossed;
  unsigned long long up;
  int down;
  int in_width;
  unsigned most;
  int least;
  unsigned sum;
  unsigned ballot;
  int all;
  int any;
};

__global__ void exchange_all(Exchanged* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const unsigned all = 0xFFFFFFFFu;
  Exchanged& own = out[threadIdx.x];
  own.broadcast = __shfl_sync(all, 0.5f * static_cast<float>(lane), 7);
  own.crossed = __shfl_xor_sync(all, 1e100 * lane, 12);
  own.up = __shfl_up_sync(all, static_cast<unsigned long long>(lane) << 40, 3);
  own.down = __shfl_down_sync(all, lane, 5);
  own.in_width = __shfl_sync(all, lane, 9, 8);
  own.most = __reduce_max_sync(all, static_cast<unsigned>((lane * 7) % 32));
  own.least = __reduce_min_sync(all, lane - 20);
  own.sum = __reduce_add_sync(all, static_cast<unsigned>(lane));
  own.ballot = __ballot_sync(all, lane % 3 == 0);
  own.all = __all_sync(all, lane < 31);
  own.any = __any_sync(all, lane == 31);
}

TEST(Warps, Exchange) {
  DeviceArray<Exchanged> out(96);
  launch(1, 96, nullptr, &exchange_all, out.data());
  const auto values = out.values();
  for (int t = 0; t < 96; ++t) {
    const Exchanged& own = values[static_cast<std::size_t>(t)];
    const int lane = t % 32;
    EXPECT_EQ(own.broadcast, 3.5f);
    EXPECT_EQ(own.crossed, 1e100 * (lane ^ 12));
    EXPECT_EQ(own.up, static_cast<unsigned long long>(lane < 3 ? lane : lane - 3) << 40);
    EXPECT_EQ(own.down, lane + 5 < 32 ? lane + 5 : lane);
    EXPECT_EQ(own.in_width, lane / 8 * 8 + 1);
    EXPECT_EQ(own.most, 31u);
    EXPECT_EQ(own.least, -20);
    EXPECT_EQ(own.sum, 496u);
    EXPECT_EQ(own.ballot, 0x49249249u);
    EXPECT_EQ(own.all, 0);
    EXPECT_EQ(own.any, 1);
  }
}

/// Halves of warps go apart, each with a mask of its own.
__global__ void exchange_in_halves(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane < 16) {
    out[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, lane, 1);
  } else {
    out[threadIdx.x] = __shfl_xor_sync(0xFFFF0000u, lane, 2) + 100;
    __syncwarp(0xFFFF0000u);
  }
}

TEST(Warps, MayPartWithMasks) {
  DeviceArray<int> out(64);
  launch(1, 64, nullptr, &exchange_in_halves, out.data());
  const auto values = out.values();
  for (int t = 0; t < 64; ++t) {
    const int lane = t % 32;
    EXPECT_EQ(values[static_cast<std::size_t>(t)], lane < 16 ? lane ^ 1 : (lane ^ 2) + 100);
  }
}

struct Totals {
  int add, most, least, bits, swapped;
  unsigned unsigned_add;
  unsigned long long long_add;
  float float_add;
  double double_add;
};

__global__ void add_up(Totals* totals) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(&totals->add, i);
  atomicAdd(&totals->unsigned_add, 2u);
  atomicAdd(&totals->long_add, 1ull << 33);
  atomicAdd(&totals->float_add, 0.5f);
  atomicAdd(&totals->double_add, 0.25);
  atomicMax(&totals->most, i);
  atomicMin(&totals->least, -i);
  atomicOr(&totals->bits, 1 << (i % 8));
  atomicCAS(&totals->swapped, 0, 77);
}

TEST(Atomics, AddUpBetweenStreams) {
  DeviceArray<Totals> totals(std::vector<Totals>(1, Totals{}));
  const StreamOwner a;
  const StreamOwner b;
  launch(4, 64, a, &add_up, totals.data());
  launch(4, 64, b, &add_up, totals.data());
  const Totals t = totals.values()[0];
  EXPECT_EQ(t.add, 255 * 256);
  EXPECT_EQ(t.unsigned_add, 1024u);
  EXPECT_EQ(t.long_add, 512ull << 33);
  EXPECT_EQ(t.float_add, 256.0f);
  EXPECT_EQ(t.double_add, 128.0);
  EXPECT_EQ(t.most, 255);
  EXPECT_EQ(t.least, -255);
  EXPECT_EQ(t.bits, 255);
  EXPECT_EQ(t.swapped, 77);
}

__global__ void barrier_on_one_side() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void barrier_against_shuffle(int* out) {
  if (threadIdx.x != 40) out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, 1, 0);
  __syncthreads();
}
__global__ void lane_that_ended(int* out) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  out[0] = __shfl_sync(0xFFFFFFFFu, 1, 0);
}
__global__ void caller_outside_mask() {
  __syncwarp(1u << ((threadIdx.x + 1) % 32));
}
__global__ void two_masks(int* out) {
  out[0] = __shfl_sync(threadIdx.x == 0 ? 0xFFFFFFFFu : 0x7FFFFFFFu, 1, 0);
}
__global__ void source_outside_mask(int* out) {
  if (threadIdx.x < 8) out[threadIdx.x] = __shfl_sync(0xFFu, 1, 9);
}
__global__ void write_null(int* to) {
  *to = 1;
}
__global__ void deep_recursion(int* out, int depth) {
  volatile int room[1024];
  room[depth % 1024] = 1;
  if (depth > 0) deep_recursion(out, depth - 1);
  out[room[0]] = depth;
}

TEST(KernelDeathTest, BarriersThatDontMatch) {
  EXPECT_KERNEL_DEATH(launch(1, 32, nullptr, &barrier_on_one_side),
                      "barrier_on_one_side.*came to __syncthreads.*while others wait at");
  DeviceArray<int> out(64);
  EXPECT_KERNEL_DEATH(launch(1, 64, nullptr, &barrier_against_shuffle, out.data()),
                      "wait for each other for ever: thread \\(0, 0, 0\\) and on at __syncthreads "
                      ".*thread \\(32, 0, 0\\) and on at __shfl_sync .*"
                      "thread \\(40, 0, 0\\) and on at __syncthreads");
}

TEST(KernelDeathTest, ExchangesThatDontMatch) {
  DeviceArray<int> out(64);
  EXPECT_KERNEL_DEATH(launch(1, 32, nullptr, &lane_that_ended, out.data()), "lane 5 .*has ended");
  EXPECT_KERNEL_DEATH(launch(1, 32, nullptr, &caller_outside_mask), "is the caller and isn't in");
  EXPECT_KERNEL_DEATH(launch(1, 32, nullptr, &two_masks, out.data()),
                      "waits with another mask|caller and");
  EXPECT_KERNEL_DEATH(launch(1, 32, nullptr, &source_outside_mask, out.data()),
                      "reads lane 9.*doesn't name");
  EXPECT_KERNEL_DEATH(launch(1, 40, nullptr, &two_masks, out.data()),
                      "fewer threads|another mask|caller and");
}

TEST(KernelDeathTest, Faults) {
  EXPECT_KERNEL_DEATH(
      launch(1, 1, nullptr, &write_null, static_cast<int*>(nullptr)),
      "write_null.*thread \\(0, 0, 0\\).*wrote to 0, a null pointer|wrote to 0x0, a null|"
      "store to null pointer");
  DeviceArray<int> out(64);
  EXPECT_KERNEL_DEATH(launch(1, 1, nullptr, &deep_recursion, out.data(), 1000), "deep_recursion");
}

TEST(KernelDeathTest, LaunchesThatCUDARefuses) {
  EXPECT_DEATH(launch(1, 1025, nullptr, &write_null, nullptr), "blocks of 1025 x 1 x 1 threads");
  EXPECT_DEATH(launch(0, 1, nullptr, &write_null, nullptr), "0 x 1 x 1 blocks");
}

TEST(Launches, ThatCUDARefusesReturnAnErrorWhereItIsntStrict) {
  set_strict(false);
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(2048);
  EXPECT_EQ(cudaLaunchKernelEx(&config, &write_null, static_cast<int*>(nullptr)),
            cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  set_strict(true);
}

}  // namespace
}  // namespace emulation::testing
