// Graphs: what is captured, in which orders it runs, and which calls end a capture.

#include "support.hpp"

namespace emulation::testing {
namespace {

__global__ void add(int* to, int value) {
  *to += value;
}
__global__ void multiply(int* to, int value) {
  *to *= value;
}
__global__ void add_other(const int* from, int* to) {
  *to += *from;
}

class Capture : public ::testing::Test {
 protected:
  void begin(cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    ASSERT_CUDA(cudaStreamBeginCapture(main_, mode));
  }
  cudaGraphExec_t end() {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    EXPECT_CUDA(cudaStreamEndCapture(main_, &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&executable, graph));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    return executable;
  }
  void expect_end(cudaError_t expected) {
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(main_, &graph), expected);
    EXPECT_EQ(graph, nullptr);
    EXPECT_EQ(cudaGetLastError(), expected);
  }
  void launch_is_refused() {
    cudaLaunchConfig_t config{};
    config.stream = main_;
    EXPECT_EQ(cudaLaunchKernelEx(&config, &add, a_.data(), 1), cudaErrorStreamCaptureInvalidated);
  }
  /// main_ and side_ go apart, and together again unless `joins` is false.
  void fork_and_join(bool joins) {
    EXPECT_CUDA(cudaEventRecord(forked_, main_));
    EXPECT_CUDA(cudaStreamWaitEvent(side_, forked_, 0));
    launch(1, 1, side_, &add, b_.data(), 5);
    launch(1, 1, main_, &multiply, a_.data(), 3);
    if (!joins) return;
    EXPECT_CUDA(cudaEventRecord(joined_, side_));
    EXPECT_CUDA(cudaStreamWaitEvent(main_, joined_, 0));
  }

  StreamOwner main_;
  StreamOwner side_;
  EventOwner forked_;
  EventOwner joined_;
  DeviceArray<int> a_{std::vector<int>{1}};
  DeviceArray<int> b_{std::vector<int>{0}};
};

TEST_F(Capture, RunsNothingUntilItsGraphIsLaunched) {
  begin();
  launch(1, 1, main_, &add, a_.data(), 1);
  launch(1, 1, main_, &multiply, a_.data(), 2);
  EXPECT_CUDA(cudaMemcpyAsync(b_.data(), a_.data(), 4, cudaMemcpyDeviceToDevice, main_));
  EXPECT_CUDA(cudaMemsetAsync(a_.data(), 0, 1, main_));
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  EXPECT_CUDA(cudaStreamIsCapturing(main_, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  cudaGraphExec_t graph = end();
  EXPECT_EQ(a_.values()[0], 1);
  mark();
  for (const int expected : {4, 2, 2}) {
    EXPECT_CUDA(cudaGraphLaunch(graph, side_));
    EXPECT_EQ(b_.values()[0], expected);
  }
  EXPECT_EQ(counts().graph_launches, 3);
  EXPECT_CUDA(cudaGraphExecDestroy(graph));
}

TEST_F(Capture, FollowsEventsToOtherStreams) {
  begin();
  fork_and_join(true);
  launch(1, 1, main_, &add_other, static_cast<const int*>(b_.data()), a_.data());
  cudaGraphExec_t graph = end();
  int a = 1;
  int b = 0;
  for (int round = 0; round < 8; ++round) {
    EXPECT_CUDA(cudaGraphLaunch(graph, main_));
    b += 5;
    a = a * 3 + b;
    EXPECT_EQ(a_.values()[0], a);
  }
  EXPECT_EQ(b_.values()[0], b);
  EXPECT_CUDA(cudaGraphExecDestroy(graph));
}

/// Two streams write one value and nothing orders them: some launch has the other order.
TEST_F(Capture, ShowsAnEdgeThatIsMissing) {
  begin();
  EXPECT_CUDA(cudaEventRecord(forked_, main_));
  EXPECT_CUDA(cudaStreamWaitEvent(side_, forked_, 0));
  launch(1, 1, main_, &add, a_.data(), 1);
  launch(1, 1, side_, &multiply, a_.data(), 2);
  EXPECT_CUDA(cudaEventRecord(joined_, side_));
  EXPECT_CUDA(cudaStreamWaitEvent(main_, joined_, 0));
  cudaGraphExec_t graph = end();
  int first = 0;
  int second = 0;
  for (int round = 0; round < 30; ++round) {
    EXPECT_CUDA(cudaMemset(a_.data(), 0, 4));
    EXPECT_CUDA(cudaDeviceSynchronize());
    EXPECT_CUDA(cudaGraphLaunch(graph, main_));
    (a_.values()[0] == 2 ? first : second) += 1;
  }
  EXPECT_GT(first, 0);
  EXPECT_GT(second, 0);
  EXPECT_CUDA(cudaGraphExecDestroy(graph));
}

TEST_F(Capture, MustJoinItsStreams) {
  begin();
  fork_and_join(false);
  expect_end(cudaErrorStreamCaptureUnjoined);
}

TEST_F(Capture, EndsWithAnErrorAfterCallsThatWait) {
  const auto expect_invalidated = [&](auto call, cudaError_t expected) {
    begin();
    EXPECT_EQ(call(), expected);
    launch_is_refused();
    expect_end(cudaErrorStreamCaptureInvalidated);
  };
  int host = 0;
  expect_invalidated([&] { return cudaStreamSynchronize(main_); },
                     cudaErrorStreamCaptureUnsupported);
  expect_invalidated([&] { return cudaStreamQuery(main_); }, cudaErrorStreamCaptureUnsupported);
  expect_invalidated([&] { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported);
  expect_invalidated(
      [&] {
        void* memory = nullptr;
        return cudaMalloc(&memory, 10);
      },
      cudaErrorStreamCaptureUnsupported);
  expect_invalidated(
      [&] { return cudaMemcpyAsync(&host, a_.data(), 4, cudaMemcpyDeviceToHost, main_); },
      cudaErrorStreamCaptureUnsupported);
  EXPECT_CUDA(cudaEventRecord(joined_, side_));
  expect_invalidated([&] { return cudaStreamWaitEvent(main_, joined_, 0); },
                     cudaErrorStreamCaptureIsolation);
  expect_invalidated(
      [&] {
        EXPECT_CUDA(cudaEventRecord(forked_, main_));
        return cudaEventQuery(forked_);
      },
      cudaErrorCapturedEvent);
}

TEST_F(Capture, IsntBrokenByAThreadThatIsBesideIt) {
  begin(cudaStreamCaptureModeGlobal);
  std::thread([] {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    EXPECT_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
    EXPECT_EQ(mode, cudaStreamCaptureModeGlobal);
    EXPECT_CUDA(cudaDeviceSynchronize());
  }).join();
  EXPECT_CUDA(cudaGraphExecDestroy(end()));
}

TEST_F(Capture, LeavesItsEventsBehind) {
  begin();
  fork_and_join(true);
  EXPECT_CUDA(cudaGraphExecDestroy(end()));
  EXPECT_EQ(cudaEventQuery(forked_), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaGetLastError(), cudaErrorCapturedEvent);
  EXPECT_DEATH(cudaStreamWaitEvent(main_, forked_, 0), "recorded in a capture that is over");
  EXPECT_CUDA(cudaEventRecord(forked_, side_));
  EXPECT_CUDA(cudaEventSynchronize(forked_));
}

TEST(CaptureOfBlockingStreams, RefusesTheLegacyStream) {
  StreamOwner stream(cudaStreamDefault);
  DeviceArray<int> value(std::vector<int>{1});
  ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  EXPECT_EQ(cudaMemsetAsync(value.data(), 0, 4, nullptr), cudaErrorStreamCaptureImplicit);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed),
            cudaErrorStreamCaptureUnsupported);
  (void)cudaGetLastError();
}

TEST(GraphsDeathTest, UseAfterDestroy) {
  const StreamOwner stream;
  cudaGraph_t graph = nullptr;
  ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  ASSERT_CUDA(cudaStreamEndCapture(stream, &graph));
  ASSERT_CUDA(cudaGraphDestroy(graph));
  EXPECT_DEATH(cudaGraphDestroy(graph), "never made or is destroyed");
  cudaGraphExec_t executable = nullptr;
  EXPECT_DEATH(cudaGraphInstantiate(&executable, graph), "never made or is destroyed");
}

}  // namespace
}  // namespace emulation::testing
