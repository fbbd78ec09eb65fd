// The transports with NCCL between emulated GPUs. Buckets are read and written by CUDA's copies
// alone: the host can't reach them.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
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

class Nccl : public ::testing::TestWithParam<const char*> {
 protected:
  /// A bucket cut into whole blocks, unevenly (some slices are empty) or evenly.
  void fill(std::int64_t blocks, bool even = false) {
    bucket_ = {.dtype = fp32, .cuts = {0}};
    for (int r = 0; r < size_; ++r) {
      const std::int64_t share = even ? 1 : (r + 1) % 3;
      bucket_.cuts.push_back(bucket_.cuts.back() + share * blocks * block_elements * 4);
    }
    memory_ = collectives_.allocate(bucket_.cuts.back());
    bucket_.data = memory_.data();
    std::vector<float> values(static_cast<std::size_t>(bucket_.cuts.back() / 4));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = content(rank_, static_cast<std::int64_t>(i));
    if (!values.empty()) copy(bucket_.data, values.data(), bucket_.cuts.back());
    collectives_.barrier();  // peers write there from now on
  }

  Runtime runtime_ = adopt(MPI_COMM_WORLD, {.device = DeviceKind::cuda,
                                            .threads = 1,
                                            .collectives = GetParam(),
                                            .deadline = std::chrono::seconds(60)});
  Collectives& collectives_ = runtime_.impl().collectives();
  const Topology& topology_ = runtime_.impl().group->topology();
  int rank_ = runtime_.rank();
  int size_ = runtime_.size();
  SlicedBucket bucket_;
  device::Buffer memory_;
};

TEST_P(Nccl, ReductionBringsEveryRanksSlice) {
  EXPECT_EQ(collectives_.name(), GetParam());
  for (const std::int64_t blocks : {0, 1, 7, 300}) {
    fill(blocks);
    const auto reduction = collectives_.begin_reduce(bucket_);
    const Contributions c = reduction->contributions();
    collectives_.wait_for_device();
    // Of each rank, or the sum of each node's.
    const int each = size_ / static_cast<int>(std::ssize(c.arrays));
    ASSERT_EQ(std::ssize(c.arrays) * each, size_);
    EXPECT_EQ(each, collectives_.name() == "nccl" ? 1 : topology_.local_size);
    const std::int64_t first = bucket_.cuts[static_cast<std::size_t>(rank_)] / 4;
    for (int a = 0; a < size_ / each; ++a) {
      const auto values =
          values_at(c.arrays[static_cast<std::size_t>(a)], bucket_.slice_bytes(rank_) / 4);
      for (std::size_t i = 0; i < values.size(); ++i) {
        float expected = 0.0f;
        for (int r = a * each; r < (a + 1) * each; ++r)
          expected += content(r, first + static_cast<std::int64_t>(i));
        ASSERT_EQ(values[i], expected) << "array " << a;
      }
    }
    collectives_.barrier();
  }
}

/// With all that a trainer has under way at a time, and more than the marks of a node's ranks.
TEST_P(Nccl, ManyReductionsKeepTheirOrder) {
  fill(1);
  const std::int64_t width = block_elements * 4;
  for (int round = 0; round < 8; ++round) {
    std::deque<std::unique_ptr<Reduction>> under_way;
    for (int i = 0; i < 20; ++i) {
      if (under_way.size() == 4) {
        EXPECT_LE(std::ssize(under_way.front()->contributions().arrays), size_);
        under_way.pop_front();
      }
      under_way.push_back(collectives_.begin_reduce(bucket_));
      (void)under_way.front()->ready();
    }
    // The last one's sum, on the device.
    device::Buffer sum(*runtime_.impl().device, std::max(width, bucket_.slice_bytes(rank_)));
    while (under_way.size() > 1) {
      (void)under_way.front()->contributions();
      under_way.pop_front();
    }
    const Contributions c = under_way.front()->contributions();
    runtime_.impl().device->reduce({.sources = c.arrays,
                                    .dtype = c.dtype,
                                    .elements = bucket_.slice_bytes(rank_) / 4,
                                    .sum = sum.as<float>()});
    under_way.clear();
    collectives_.wait_until_read(collectives_.reductions());
    collectives_.wait_for_device();
    const auto values = values_at(sum.data(), bucket_.slice_bytes(rank_) / 4);
    for (std::size_t i = 0; i < values.size(); ++i) {
      float expected = 0.0f;
      for (int r = 0; r < size_; ++r)
        expected += content(
            r, bucket_.cuts[static_cast<std::size_t>(rank_)] / 4 + static_cast<std::int64_t>(i));
      ASSERT_EQ(values[i], expected);
    }
  }
  collectives_.barrier();
}

TEST_P(Nccl, GatherBringsEveryRanksSlice) {
  for (const bool even : {false, true}) {
    for (const std::int64_t blocks : {0, 1, 7, 300}) {
      fill(blocks, even);
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
}

TEST_P(Nccl, SquaresAreAddedUpOverAllRanks) {
  device::Device& device = *runtime_.impl().device;
  device::Buffer sum(device, sizeof(device::SquareSum));
  std::vector<std::int64_t> digits(device::square_sum_values);
  for (int round = 1; round < 12; ++round) {
    for (std::size_t d = 0; d < digits.size(); ++d)
      digits[d] = (rank_ + 1) * round * 1000 + static_cast<std::int64_t>(d);
    copy(sum.data(), digits.data(), sum.bytes());
    collectives_.add_up(sum.as<device::SquareSum>());
    collectives_.wait_for_device();
    std::vector<std::int64_t> found(digits.size());
    copy(found.data(), sum.data(), sum.bytes());
    for (std::size_t d = 0; d < digits.size(); ++d) {
      std::int64_t expected = 0;
      for (int r = 0; r < size_; ++r)
        expected += (r + 1) * round * 1000 + static_cast<std::int64_t>(d);
      ASSERT_EQ(found[d], expected) << "value " << d;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, Nccl, ::testing::Values("nccl", "hierarchical"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace shardmix::comm
