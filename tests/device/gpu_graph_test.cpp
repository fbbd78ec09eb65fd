// What a GPU is given for a step waits for nothing and takes no memory: it can be captured.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <array>

#include "shardmix/error.hpp"
#include "update_case.hpp"

namespace shardmix::device {
namespace {

/// The device's part of a step: reduction, norm, decision and update.
class Step {
 public:
  Step(Device& gpu, const Rule& rule, const Storage& storage)
      : gpu_(gpu),
        rule_(rule),
        memory_(gpu, rule, storage, blocks),
        squares_(gpu, sizeof(SquareSum)),
        control_(gpu, sizeof(UpdateControl)),
        outcome_(gpu, sizeof(UpdateControl), MemoryKind::host) {
    memory_.fill(3);
  }

  void queue() {
    const std::array<const void*, 1> sources{memory_.arrays().gradients[0]};
    const UpdateRun run{memory_.elements(), kernel_of(rule_)};
    gpu_.zero(squares_.data(), sizeof(SquareSum));
    gpu_.reduce({.sources = sources,
                 .dtype = memory_.arrays().gradient_dtype,
                 .elements = memory_.elements(),
                 .squares = squares_.as<SquareSum>()});
    gpu_.decide({.squares = squares_.as<SquareSum>(),
                 .clip_norm = 0.5,
                 .control = control_.as<UpdateControl>(),
                 .copy = outcome_.as<UpdateControl>()});
    gpu_.update({.arrays = memory_.arrays(),
                 .elements = memory_.elements(),
                 .runs = {&run, 1},
                 .control = control_.as<UpdateControl>()});
  }

  [[nodiscard]] std::vector<std::byte> bits() const { return memory_.bits(); }
  [[nodiscard]] double norm() const { return outcome_.as<UpdateControl>()->norm; }

 private:
  static constexpr std::int64_t blocks = 11;
  Device& gpu_;
  Rule rule_;
  Memory memory_;
  Buffer squares_;
  Buffer control_;
  Buffer outcome_;
};

TEST(GpuGraph, ReplaysAStepWithTheSameBits) {
  std::unique_ptr<Device> gpu;
  try {
    gpu = cuda_device(0);
  } catch (const DeviceError& error) {
    GTEST_SKIP() << error.what();
  }
  const Storage storage{bf16, WeightStorage::remainder, StateStorage::compact, bf16};
  for (const Rule& rule : all_rules()) {
    Step direct(*gpu, rule, storage);
    Step replayed(*gpu, rule, storage);
    const std::vector<std::byte> before = replayed.bits();
    auto* stream = static_cast<cudaStream_t>(gpu->queue());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    replayed.queue();
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    gpu->synchronize();
    ASSERT_TRUE(replayed.bits() == before) << "capturing ran it";
    for (int step = 0; step < 3; ++step) {
      direct.queue();
      ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
      gpu->synchronize();
      ASSERT_FALSE(direct.bits() == before);
      ASSERT_TRUE(direct.bits() == replayed.bits()) << name_of(rule) << ", step " << step;
      ASSERT_EQ(direct.norm(), replayed.norm());
    }
    ASSERT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
    ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
}

}  // namespace
}  // namespace shardmix::device
