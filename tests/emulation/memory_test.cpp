// Memory: the host can't reach a device's, every use beside or after it is seen, and amounts are
// known.

#include <cmath>
#include <cstring>
#include <numeric>

#include "support.hpp"

namespace emulation::testing {
namespace {

__global__ void write_at(char* memory, long long offset) {
  memory[offset] = 1;
}
__global__ void read_at(const char* memory, long long offset, char* to) {
  *to = memory[offset];
}
__global__ void add_one(int* data, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) data[i] += 1;
}

TEST(Memory, BeginsAtMultiplesOf256AndIsPoisoned) {
  for (const std::size_t count : {1u, 3u, 64u, 1000u, 70'000u}) {
    const DeviceArray<float> array(count);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(array.data()) % 256, 0u);
    for (const float value : array.values()) ASSERT_TRUE(std::isnan(value));
  }
}

TEST(Memory, OfNothingIsNull) {
  void* memory = &memory;
  EXPECT_CUDA(cudaMalloc(&memory, 0));
  EXPECT_EQ(memory, nullptr);
  EXPECT_CUDA(cudaFree(nullptr));
}

TEST(Memory, IsCountedAndLimited) {
  const std::int64_t before = bytes_allocated();
  reset_most();
  {
    const DeviceArray<char> a(1000);
    const DeviceArray<char> b(24);
    EXPECT_EQ(bytes_allocated() - before, 1024);
  }
  EXPECT_EQ(bytes_allocated(), before);
  EXPECT_EQ(most_bytes_allocated() - before, 1024);
  std::size_t free = 0;
  std::size_t total = 0;
  EXPECT_CUDA(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(total, std::size_t{80} << 30);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, total + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(memory, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
}

TEST(Memory, Of70GiBTouchesFewPages) {
  const std::int64_t before = bytes_touched();
  constexpr std::size_t bytes = std::size_t{70} << 30;
  char* memory = nullptr;
  ASSERT_CUDA(cudaMalloc(&memory, bytes));
  EXPECT_CUDA(cudaMemset(memory, 0, bytes));
  launch(1, 1, nullptr, &write_at, memory, static_cast<long long>(bytes) - 1);
  char last = 0;
  EXPECT_CUDA(cudaMemcpy(&last, memory + bytes - 1, 1, cudaMemcpyDeviceToHost));
  EXPECT_EQ(last, 1);
  EXPECT_LT(bytes_touched() - before, 1 << 20);
  EXPECT_CUDA(cudaFree(memory));
  EXPECT_LE(bytes_touched(), before);
}

TEST(Memory, OfHostsIsReachedByBothSides) {
  int* pinned = nullptr;
  int* managed = nullptr;
  ASSERT_CUDA(cudaMallocHost(&pinned, 300 * sizeof(int)));
  ASSERT_CUDA(cudaMallocManaged(&managed, 300 * sizeof(int)));
  for (int* data : {pinned, managed}) {
    std::iota(data, data + 300, 0);
    launch(2, 256, nullptr, &add_one, data, 300);
    EXPECT_CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < 300; ++i) ASSERT_EQ(data[i], i + 1);
  }
  cudaPointerAttributes attributes{};
  EXPECT_CUDA(cudaPointerGetAttributes(&attributes, pinned + 5));
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  EXPECT_CUDA(cudaPointerGetAttributes(&attributes, managed));
  EXPECT_EQ(attributes.type, cudaMemoryTypeManaged);
  EXPECT_CUDA(cudaPointerGetAttributes(&attributes, &attributes));
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
  EXPECT_CUDA(cudaFreeHost(pinned));
  EXPECT_CUDA(cudaFree(managed));
}

TEST(Memory, OfStreamsIsThereInTheirOrder) {
  const StreamOwner stream;
  char* memory = nullptr;
  EXPECT_CUDA(cudaMallocAsync(&memory, 100, stream));
  launch(1, 1, stream, &write_at, memory, 99);
  EXPECT_CUDA(cudaFreeAsync(memory, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(bytes_allocated(), 0);
}

TEST(Copies, OfAllKindsAndSizes) {
  for (const std::size_t bytes : {1u, 4097u, 65'536u, 65'537u, 3'000'001u}) {
    std::vector<char> values(bytes);
    for (std::size_t i = 0; i < bytes; ++i) values[i] = static_cast<char>(i * 31 + i / 251);
    DeviceArray<char> a(bytes);
    DeviceArray<char> b(bytes);
    char* pinned = nullptr;
    ASSERT_CUDA(cudaMallocHost(&pinned, bytes));
    std::memcpy(pinned, values.data(), bytes);
    EXPECT_CUDA(cudaMemcpy(a.data(), pinned, bytes, cudaMemcpyHostToDevice));
    EXPECT_CUDA(cudaMemcpy(b.data(), a.data(), bytes, cudaMemcpyDeviceToDevice));
    EXPECT_EQ(b.values(), values);
    EXPECT_CUDA(cudaMemset(b.data(), 7, bytes));
    EXPECT_EQ(b.values(), std::vector<char>(bytes, 7));
    std::memset(pinned, 0, bytes);
    EXPECT_CUDA(cudaMemcpy(pinned, a.data(), bytes, cudaMemcpyDefault));
    EXPECT_EQ(std::memcmp(pinned, values.data(), bytes), 0);
    EXPECT_CUDA(cudaFreeHost(pinned));
  }
}

TEST(Copies, OfZerosLeaveWhatLiesBeside) {
  constexpr std::size_t bytes = (4 << 20) + 100;
  DeviceArray<char> array(std::vector<char>(bytes, 1));
  EXPECT_CUDA(cudaMemset(array.data() + 50, 0, bytes - 100));
  const auto values = array.values();
  for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(values[i], i < 50 || i >= bytes - 50 ? 1 : 0);
}

TEST(MemoryDeathTest, HostsCantTouchMemoryOfDevices) {
  const DeviceArray<char> array(1000);
  EXPECT_DEATH(array.data()[16] = 1,
               "host code touched device memory at 0x.*, byte 16 of allocation 1 \\(1000 bytes of "
               "device 0\\)");
  EXPECT_DEATH(std::printf("%c", *array.data()), "host code touched device memory");
}

TEST(MemoryDeathTest, KernelsCantLeaveAllocations) {
  const DeviceArray<char> array(1024);
  const DeviceArray<char> out(1);
  EXPECT_KERNEL_DEATH(launch(1, 1, nullptr, &write_at, array.data(), 1024),
                      "write_at.*wrote to 0x.*, 0 bytes behind the end of allocation 1|"
                      "use-after-poison");
  EXPECT_KERNEL_DEATH(
      launch(1, 1, nullptr, &read_at, array.data(), 1024, out.data()),
      "read_at.*read 0x.*, 0 bytes behind the end of allocation 1|use-after-poison");
  EXPECT_KERNEL_DEATH(launch(1, 1, nullptr, &write_at, array.data(), -5000),
                      "bytes before allocation 1|use-after-poison");
}

/// Up to 255 bytes behind the end there is no page without access: the end is looked at when
/// the memory is freed, unless a sanitizer sees it at once.
TEST(MemoryDeathTest, BytesBesideAllocationsAreLookedAt) {
  for (const long long offset : {-1ll, 1000ll, 1023ll}) {
    EXPECT_DEATH(
        {
          char* memory = nullptr;
          cudaMalloc(&memory, 1000);
          launch(1, 1, nullptr, &write_at, memory, offset);
          cudaFree(memory);
        },
        offset < 0 ? "was written 1 bytes before its begin|use-after-poison"
                   : "was written .* bytes behind its end|use-after-poison");
  }
}

TEST(MemoryDeathTest, FreedMemoryIsGone) {
  const auto use_after = [](auto free) {
    const StreamOwner stream;
    char* memory = nullptr;
    cudaMalloc(&memory, 512);
    free(memory, stream);
    launch(1, 1, stream, &write_at, memory, 3);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(use_after([](char* memory, cudaStream_t) { cudaFree(memory); }),
               "byte 3 of the freed allocation 1");
  EXPECT_DEATH(use_after([](char* memory, cudaStream_t stream) { cudaFreeAsync(memory, stream); }),
               "byte 3 of the freed allocation 1");
}

TEST(MemoryDeathTest, FreesThatMakeNoSense) {
  const DeviceArray<char> array(100);
  EXPECT_DEATH(cudaFree(array.data() + 1), "cudaFree was given .*, which it can't free: byte 1 of");
  EXPECT_DEATH(cudaFreeHost(array.data()), "cudaFreeHost was given");
  int local = 0;
  EXPECT_DEATH(cudaFree(&local), "memory of the host");
  EXPECT_DEATH(
      {
        void* memory = nullptr;
        cudaMalloc(&memory, 10);
        cudaFree(memory);
        cudaFree(memory);
      },
      "the freed allocation");
}

TEST(MemoryDeathTest, CopiesThatMakeNoSense) {
  const DeviceArray<char> array(100);
  char host[200] = {};
  EXPECT_DEATH(cudaMemcpy(array.data(), host, 101, cudaMemcpyHostToDevice),
               "its destination .* has 100 bytes left in allocation 1 .*, and 101 were to be");
  EXPECT_DEATH(cudaMemcpy(host, array.data() + 60, 41, cudaMemcpyDeviceToHost),
               "its source .* has 40 bytes left");
  EXPECT_DEATH(cudaMemcpy(host, array.data(), 10, cudaMemcpyHostToDevice), "isn't memory of the");
  EXPECT_DEATH(cudaMemset(host, 0, 10), "is pageable memory of the host");
  EXPECT_DEATH(cudaMemset(nullptr, 0, 10), "is null");
  EXPECT_DEATH(cudaMemset(array.data() + 200, 0, 1), "101 bytes behind|100 bytes behind");
}

__global__ void read_host(const int* memory, int* to) {
  *to = *memory;
}

TEST(MemoryDeathTest, KernelsCantReadMemoryOfHosts) {
  const DeviceArray<int> out(1);
  const std::vector<int> large(1 << 20);
  const std::vector<int> small(10'000);
  const int local[5'000] = {};
  for (const int* host : {large.data(), small.data() + 9'000, &local[0]}) {
    EXPECT_KERNEL_DEATH(launch(1, 1, nullptr, &read_host, host, out.data()),
                        "read_host.*an address of the host");
  }
}

TEST(MemoryDeathTest, LeaksAreToldAtTheEnd) {
  EXPECT_EXIT(
      {
        setenv("EMULATION_LEAKS", "1", 1);
        void* memory = nullptr;
        cudaMalloc(&memory, 10);
        cudaEvent_t event = nullptr;
        cudaEventCreate(&event);
        std::exit(0);
      },
      ::testing::ExitedWithCode(23), "still allocation 1 .*\n.*still 1 events");
}

}  // namespace
}  // namespace emulation::testing
