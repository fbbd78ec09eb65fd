// Streams and events: what is ordered and what isn't.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "support.hpp"

namespace emulation::testing {
namespace {

__global__ void put(int* to, int value) {
  *to = value;
}
__global__ void copy_value(const int* from, int* to) {
  *to = *from;
}
__global__ void multiply_and_add(unsigned* value, unsigned by) {
  *value = *value * 3 + by;
}

TEST(Streams, KeepTheirOrder) {
  const StreamOwner stream;
  DeviceArray<unsigned> value(std::vector<unsigned>{1});
  unsigned expected = 1;
  for (unsigned i = 0; i < 9000; ++i) {  // more than a queue holds
    launch(1, 1, stream, &multiply_and_add, value.data(), i);
    expected = expected * 3 + i;
  }
  EXPECT_EQ(value.values()[0], expected);
}

TEST(Streams, RunBesideEachOther) {
  const StreamOwner a;
  const StreamOwner b;
  DeviceArray<int> value(std::vector<int>{0});
  Gate gate;
  gate.close(a);
  launch(1, 1, a, &put, value.data(), 1);
  launch(1, 1, b, &put, value.data(), 2);
  EXPECT_CUDA(cudaStreamSynchronize(b));
  EXPECT_EQ(cudaStreamQuery(a), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  gate.open();
  EXPECT_CUDA(cudaStreamSynchronize(a));
  EXPECT_CUDA(cudaStreamQuery(a));
  EXPECT_EQ(value.values()[0], 1);
}

/// What comes of two streams that write and read without an event, over many seeds.
int count_of_wrong_reads(bool with_event) {
  set_delay(200);
  int wrong = 0;
  for (int round = 0; round < 60; ++round) {
    const StreamOwner writer;
    const StreamOwner reader;
    const EventOwner event;
    DeviceArray<int> value(std::vector<int>{0});
    DeviceArray<int> seen(std::vector<int>{0});
    launch(1, 1, writer, &put, value.data(), round + 1);
    EXPECT_CUDA(cudaEventRecord(event, writer));
    if (with_event) {
      EXPECT_CUDA(cudaStreamWaitEvent(reader, event, 0));
    }
    launch(1, 1, reader, &copy_value, value.data(), seen.data());
    if (seen.values()[0] != round + 1) ++wrong;
  }
  return wrong;
}

TEST(Streams, ShowAnEventThatIsMissing) {
  EXPECT_GT(count_of_wrong_reads(false), 0);
  EXPECT_EQ(count_of_wrong_reads(true), 0);
}

TEST(Streams, WaitForWhatAnEventHadRecordedThen) {
  const StreamOwner a;
  const StreamOwner b;
  const EventOwner event;
  Gate first;
  Gate second;
  EXPECT_CUDA(cudaStreamWaitEvent(b, event, 0));  // never recorded: nothing to wait for
  EXPECT_CUDA(cudaStreamSynchronize(b));
  first.close(a);
  EXPECT_CUDA(cudaEventRecord(event, a));
  EXPECT_CUDA(cudaStreamWaitEvent(b, event, 0));
  second.close(a);
  EXPECT_CUDA(cudaEventRecord(event, a));
  EXPECT_EQ(cudaStreamQuery(b), cudaErrorNotReady);
  first.open();
  EXPECT_CUDA(cudaStreamSynchronize(b));  // not for the second record
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  second.open();
  EXPECT_CUDA(cudaEventSynchronize(event));
  EXPECT_CUDA(cudaEventQuery(event));
}

TEST(Streams, LegacyWaitsForBlockingOnesAndTheyForIt) {
  const StreamOwner blocking(cudaStreamDefault);
  const StreamOwner other(cudaStreamNonBlocking);
  Gate gate;
  DeviceArray<int> value(std::vector<int>{0});
  gate.close(blocking);
  launch(1, 1, nullptr, &put, value.data(), 1);
  usleep(20'000);  // it could be done by now
  EXPECT_EQ(cudaStreamQuery(nullptr), cudaErrorNotReady);
  launch(1, 1, other, &put, value.data(), 2);
  EXPECT_CUDA(cudaStreamSynchronize(other));  // waits for nobody
  gate.open();
  EXPECT_CUDA(cudaStreamSynchronize(nullptr));
  EXPECT_EQ(value.values()[0], 1);
  Gate again;
  again.close(nullptr);
  launch(1, 1, blocking, &put, value.data(), 3);
  launch(1, 1, cudaStreamPerThread, &put, value.data(), 4);
  usleep(20'000);
  EXPECT_EQ(cudaStreamQuery(blocking), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(cudaStreamPerThread), cudaErrorNotReady);
  again.open();
  EXPECT_CUDA(cudaDeviceSynchronize());
}

TEST(Streams, MayBeDestroyedBeforeTheirWorkIsDone) {
  DeviceArray<int> value(std::vector<int>{0});
  Gate gate;
  {
    const StreamOwner stream;
    gate.close(stream);
    launch(1, 1, stream, &put, value.data(), 5);
  }
  const StreamOwner next;  // not behind the gate
  launch(1, 1, next, &put, value.data(), 4);
  EXPECT_CUDA(cudaStreamSynchronize(next));
  gate.open();
  EXPECT_EQ(value.values()[0], 5);
}

TEST(Copies, ReadPinnedMemoryWhenTheStreamComesToThem) {
  const StreamOwner stream;
  int* pinned = nullptr;
  ASSERT_CUDA(cudaMallocHost(&pinned, sizeof(int)));
  DeviceArray<int> value(1);
  Gate gate;
  gate.close(stream);
  *pinned = 1;
  EXPECT_CUDA(cudaMemcpyAsync(value.data(), pinned, sizeof(int), cudaMemcpyHostToDevice, stream));
  *pinned = 2;  // too early
  gate.open();
  EXPECT_EQ(value.values()[0], 2);
  EXPECT_CUDA(cudaFreeHost(pinned));
}

TEST(Copies, StagePageableMemory) {
  const StreamOwner stream;
  DeviceArray<int> value(1);
  Gate gate;
  gate.close(stream);
  int pageable = 1;
  EXPECT_CUDA(
      cudaMemcpyAsync(value.data(), &pageable, sizeof(int), cudaMemcpyHostToDevice, stream));
  pageable = 2;
  gate.open();
  EXPECT_CUDA(
      cudaMemcpyAsync(&pageable, value.data(), sizeof(int), cudaMemcpyDeviceToHost, stream));
  EXPECT_EQ(pageable, 1);  // has waited
}

TEST(HostFunctions, RunInTheirStreamsOrder) {
  const StreamOwner stream;
  int* pinned = nullptr;
  ASSERT_CUDA(cudaMallocHost(&pinned, sizeof(int)));
  *pinned = 0;
  static std::atomic<int> seen{0};
  launch(1, 1, stream, &put, pinned, 42);
  EXPECT_CUDA(cudaLaunchHostFunc(
      stream, [](void* data) { seen = *static_cast<int*>(data); }, pinned));
  launch(1, 1, stream, &put, pinned, 43);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(seen, 42);
  EXPECT_EQ(*pinned, 43);
  EXPECT_CUDA(cudaFreeHost(pinned));
}

TEST(Counts, SayWhatHappened) {
  const StreamOwner stream;
  const EventOwner event;
  DeviceArray<int> value(1);
  mark();
  launch(1, 1, stream, &put, value.data(), 1);
  launch(1, 1, stream, &put, value.data(), 1);
  EXPECT_CUDA(cudaEventRecord(event, stream));
  EXPECT_CUDA(cudaStreamWaitEvent(stream, event, 0));
  int host = 0;
  EXPECT_CUDA(cudaMemcpyAsync(&host, value.data(), 4, cudaMemcpyDeviceToHost, stream));
  EXPECT_CUDA(cudaMemsetAsync(value.data(), 0, 4, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  const Counts counted = counts();
  EXPECT_EQ(counted.launches, 2);
  EXPECT_EQ(counted.copies, 1);
  EXPECT_EQ(counted.copied_bytes, 4);
  EXPECT_EQ(counted.memsets, 1);
  EXPECT_EQ(counted.event_waits, 1);
  EXPECT_EQ(counted.allocations, 0);
}

TEST(Events, MeasureTimeUnlessTheyDont) {
  const EventOwner begin(cudaEventDefault);
  const EventOwner end(cudaEventDefault);
  EXPECT_CUDA(cudaEventRecord(begin, nullptr));
  EXPECT_CUDA(cudaEventRecord(end, nullptr));
  EXPECT_CUDA(cudaEventSynchronize(end));
  float milliseconds = -1.0f;
  EXPECT_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
  EXPECT_GE(milliseconds, 0.0f);
}

TEST(StreamsDeathTest, UseAfterDestroy) {
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  ASSERT_CUDA(cudaStreamCreate(&stream));
  ASSERT_CUDA(cudaEventCreate(&event));
  ASSERT_CUDA(cudaStreamDestroy(stream));
  ASSERT_CUDA(cudaEventDestroy(event));
  EXPECT_DEATH(cudaStreamSynchronize(stream),
               "cudaStreamSynchronize was given the stream .* is destroyed");
  EXPECT_DEATH(cudaEventRecord(event, nullptr), "the event .* is destroyed");
  EXPECT_DEATH(cudaStreamWaitEvent(nullptr, event, 0), "the event .* is destroyed");
  EXPECT_DEATH(cudaStreamDestroy(nullptr), "a default stream");
}

TEST(StreamsDeathTest, HostFunctionsMayNotCallCUDA) {
  EXPECT_DEATH(
      {
        cudaLaunchHostFunc(
            nullptr, [](void*) { cudaDeviceSynchronize(); }, nullptr);
        cudaDeviceSynchronize();
      },
      "cudaDeviceSynchronize was called from a host function");
}

TEST(EventsDeathTest, BetweenProcessesDontMeasureTime) {
  cudaEvent_t event = nullptr;
  EXPECT_DEATH(cudaEventCreateWithFlags(&event, cudaEventInterprocess), "cudaEventDisableTiming");
}

TEST(Devices, TellWhatTheyAre) {
  int count = 0;
  EXPECT_CUDA(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 1);
  cudaDeviceProp properties{};
  EXPECT_CUDA(cudaGetDeviceProperties(&properties, 0));
  EXPECT_STREQ(properties.name, "emulated GPU");
  int blocks = 0;
  EXPECT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, &put, 256, 0));
  EXPECT_EQ(blocks, 8);
  EXPECT_DEATH(cudaSetDevice(1), "device 1; there are 1");
}

/// With EMULATION_DEVICES=2: memory and streams of either, and copies between them.
void use_two_devices() {
  setenv("EMULATION_DEVICES", "2", 1);
  int count = 0;
  EXPECT_CUDA(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  DeviceArray<int> first(std::vector<int>{7});
  EXPECT_CUDA(cudaSetDevice(1));
  EXPECT_CUDA(cudaDeviceEnablePeerAccess(0, 0));
  EXPECT_EQ(cudaDeviceEnablePeerAccess(0, 0), cudaErrorPeerAccessAlreadyEnabled);
  const StreamOwner stream;
  DeviceArray<int> second(1);
  EXPECT_EQ(bytes_allocated(1), 4);
  EXPECT_CUDA(cudaMemcpyAsync(second.data(), first.data(), 4, cudaMemcpyDefault, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(second.values()[0], 7);
  cudaPointerAttributes attributes{};
  EXPECT_CUDA(cudaPointerGetAttributes(&attributes, second.data()));
  EXPECT_EQ(attributes.device, 1);
  set_strict(false);
  EXPECT_CUDA(cudaSetDevice(0));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_CUDA(cudaSetDevice(1));
}

TEST(DevicesDeathTest, MayBeSeveral) {
  EXPECT_EXIT(
      {
        use_two_devices();
        std::exit(::testing::Test::HasFailure() ? 1 : 0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(Processes, ThatWereForkedHaveNoGpu) {
  const DeviceArray<int> value(std::vector<int>{1});
  const pid_t child = fork();
  if (child == 0) {
    set_strict(false);
    void* memory = nullptr;
    _exit(cudaMalloc(&memory, 10) == cudaErrorInitializationError ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(value.values()[0], 1);  // the parent's goes on
}

}  // namespace
}  // namespace emulation::testing
