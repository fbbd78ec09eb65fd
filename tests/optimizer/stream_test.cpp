// A trainer on a GPU that never waits: the optimizer follows its stream, and leads it.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstring>

#include "comm/runtime_impl.hpp"
#include "emulation/emulation.hpp"
#include "optimizer/support.hpp"
#include "shardmix/cuda.hpp"

namespace shardmix {
namespace {

class StreamTest : public ::testing::Test {
 protected:
  StreamTest() {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaHostAlloc(&pinned_, bytes, cudaHostAllocDefault), cudaSuccess);
  }
  ~StreamTest() override {
    cudaFreeHost(pinned_);
    cudaStreamDestroy(stream_);
  }

  /// Gradients come from page-locked memory, parameters go there, and only the last are waited for.
  std::vector<float> train(bool queued, bool overlap) {
    use_stream(runtime_, queued ? stream_ : nullptr);
    Parameters parameters;
    parameters.add("weight", {n}, fp32);
    ShardedOptimizer optimizer(runtime_, parameters, AdEMAMix{.lr = 1e-2},
                               {.bucket_elements = 1024, .overlap = overlap});
    testing::set_values(optimizer, optimizer.parameter("weight"), 1.0);
    optimizer.broadcast_parameters();
    void* const gradient = optimizer.gradient("weight").data;
    void* const weight = optimizer.parameter("weight").data;
    auto* const values = static_cast<float*>(pinned_);
    for (int step = 0; step < steps; ++step) {
      float* const own = values + step * n;
      for (int i = 0; i < n; ++i)
        own[i] = static_cast<float>((i * 7 + step * 13 + runtime_.rank()) % 101) - 50.0f;
      if (queued) {
        EXPECT_EQ(cudaMemcpyAsync(gradient, own, n * 4, cudaMemcpyDefault, stream_), cudaSuccess);
        optimizer.mark_ready("weight");
      } else {
        optimizer.write(optimizer.gradient("weight"), own);
      }
      emulation::mark();
      optimizer.step();
      optimizer.wait();
      const bool is_staged = runtime_.impl().collectives().name() == "mpi";
      // The first step takes memory.
      EXPECT_TRUE(step == 0 || is_staged || emulation::counts().host_waits == 0);
      float* const result = values + (steps + step) * n;
      if (queued)
        EXPECT_EQ(cudaMemcpyAsync(result, weight, n * 4, cudaMemcpyDefault, stream_), cudaSuccess);
      else
        optimizer.read(optimizer.parameter("weight"), result);
    }
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    use_stream(runtime_, nullptr);
    return {values + steps * n, values + 2 * steps * n};
  }

  static constexpr int n = 5000;
  static constexpr int steps = 4;
  static constexpr std::size_t bytes = 2 * steps * n * sizeof(float);
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options());
  cudaStream_t stream_ = nullptr;
  void* pinned_ = nullptr;
};

TEST_F(StreamTest, TheOptimizerFollowsAndLeadsTheTrainersStream) {
  const std::vector<float> expected = train(false, false);
  for (int seed = 1; seed <= 20; ++seed) {
    emulation::set_seed(static_cast<std::uint64_t>(100 * seed + runtime_.rank()));
    ASSERT_EQ(train(true, seed % 2 == 0), expected) << "seed " << seed;
  }
}

}  // namespace
}  // namespace shardmix
