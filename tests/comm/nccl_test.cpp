// NCCL's transport between emulated GPUs. Buckets are read and written by CUDA's copies alone: the
// host can't reach them.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <string>
#include <vector>

#include "comm/runtime_impl.hpp"
#include "comm/transports.hpp"
#include "math/block.hpp"
#include "shardmix/error.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::comm {
namespace {

using math::block_elements;

float content(int rank, std::int64_t i) {
  return static_cast<float>((i * 31 + rank * 101 + i / 251) % 256);
}

void copy(void* to, const void* from, std::int64_t bytes) {
  ASSERT_EQ(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

std::vector<float> values_at(const void* memory, std::int64_t elements) {
  std::vector<float> values(static_cast<std::size_t>(elements));
  if (elements > 0) copy(values.data(), memory, elements * 4);
  return values;
}

class Nccl : public ::testing::Test {
 protected:
  /// A bucket cut unevenly into whole blocks; some slices are empty.
  void fill(std::int64_t blocks) {
    bucket_ = {.dtype = fp32, .cuts = {0}};
    for (int r = 0; r < size_; ++r)
      bucket_.cuts.push_back(bucket_.cuts.back() + (r + 1) % 3 * blocks * block_elements * 4);
    memory_ = collectives_.allocate(bucket_.cuts.back());
    bucket_.data = memory_.data();
    std::vector<float> values(static_cast<std::size_t>(bucket_.cuts.back() / 4));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = content(rank_, static_cast<std::int64_t>(i));
    if (!values.empty()) copy(bucket_.data, values.data(), bucket_.cuts.back());
  }

  Runtime runtime_ = adopt(MPI_COMM_WORLD, {.device = DeviceKind::cuda,
                                            .threads = 1,
                                            .collectives = "nccl",
                                            .deadline = std::chrono::seconds(60)});
  Collectives& collectives_ = runtime_.impl().collectives();
  int rank_ = runtime_.rank();
  int size_ = runtime_.size();
  SlicedBucket bucket_;
  device::Buffer memory_;
};

TEST_F(Nccl, ReductionBringsEveryRanksSlice) {
  EXPECT_EQ(collectives_.name(), "nccl");
  for (const std::int64_t blocks : {0, 1, 7, 300}) {
    fill(blocks);
    const auto reduction = collectives_.begin_reduce(bucket_);
    const Contributions c = reduction->contributions();
    collectives_.wait_for_device();
    ASSERT_EQ(std::ssize(c.arrays), size_);
    const std::int64_t first = bucket_.cuts[static_cast<std::size_t>(rank_)] / 4;
    for (int r = 0; r < size_; ++r) {
      const auto values =
          values_at(c.arrays[static_cast<std::size_t>(r)], bucket_.slice_bytes(rank_) / 4);
      for (std::size_t i = 0; i < values.size(); ++i)
        ASSERT_EQ(values[i], content(r, first + static_cast<std::int64_t>(i))) << "rank " << r;
    }
    collectives_.barrier();
  }
}

TEST_F(Nccl, GatherBringsEveryRanksSlice) {
  for (const std::int64_t blocks : {0, 1, 7, 300}) {
    fill(blocks);
    collectives_.begin_gather(bucket_, Written::here)->wait();
    collectives_.wait_for_device();
    const auto values = values_at(bucket_.data, bucket_.cuts.back() / 4);
    for (int r = 0; r < size_; ++r) {
      const std::int64_t end = bucket_.cuts[static_cast<std::size_t>(r) + 1] / 4;
      for (std::int64_t i = bucket_.cuts[static_cast<std::size_t>(r)] / 4; i < end; ++i)
        ASSERT_EQ(values[static_cast<std::size_t>(i)], content(r, i)) << "rank " << r;
    }
    collectives_.barrier();
  }
}

}  // namespace
}  // namespace shardmix::comm
