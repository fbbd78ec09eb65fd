#include "comm/collectives.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "comm/runtime_impl.hpp"
#include "comm/transports.hpp"
#include "device/storage.hpp"
#include "math/block.hpp"
#include "shardmix/error.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::comm {
namespace {

using math::block_elements;

/// What element `i` of rank `rank`'s bucket holds: different for every rank and place, and exact in
/// 16 bits.
float content(int rank, std::int64_t i) {
  return static_cast<float>((i * 31 + rank * 101 + i / 251) % 256);
}

/// A bucket cut unevenly into whole blocks; some slices are empty.
struct TestBucket {
  device::Buffer memory;
  SlicedBucket sliced;
  std::int64_t elements = 0;

  TestBucket(Collectives& collectives, DType dtype, std::int64_t blocks) {
    sliced.dtype = dtype;
    sliced.cuts = {0};
    for (int r = 0; r < collectives.size(); ++r) {
      sliced.cuts.push_back(sliced.cuts.back() +
                            (r + 1) % 3 * blocks * block_elements * size_of(dtype));
    }
    elements = sliced.cuts.back() / size_of(dtype);
    memory = collectives.allocate(sliced.cuts.back());
    sliced.data = memory.data();
    for (std::int64_t i = 0; i < elements; ++i)
      device::store_value(dtype, sliced.data, i, content(collectives.rank(), i));
  }

  [[nodiscard]] float at(std::int64_t i) const {
    return device::load_value(sliced.dtype, sliced.data, i);
  }
  [[nodiscard]] std::int64_t cut(int rank) const {
    return sliced.cuts[static_cast<std::size_t>(rank)] / size_of(sliced.dtype);
  }
};

/// Every transport that this topology can have.
class CollectivesTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const Topology& topology = runtime_.impl().group->topology();
    if ((GetParam() == "shared" && topology.nodes > 1) || !topology.regular)
      GTEST_SKIP() << GetParam() << " on " << describe(topology);
    collectives_ =
        make_collectives(GetParam(), *runtime_.impl().group, *runtime_.impl().device, false);
    EXPECT_EQ(collectives_->name(), GetParam());
  }

  /// Ends only when all ranks are done with its memory.
  void TearDown() override { runtime_.impl().collectives().barrier(); }

  void expect_sum(const TestBucket& bucket, const Contributions& c) const {
    for (std::int64_t i = bucket.cut(rank_); i < bucket.cut(rank_ + 1); ++i) {
      float sum = 0.0f;
      float expected = 0.0f;
      for (const void* array : c.arrays)
        sum += device::load_value(c.dtype, array, i - bucket.cut(rank_));
      for (int r = 0; r < size_; ++r) expected += content(r, i);
      ASSERT_EQ(sum, expected) << "element " << i << " of " << bucket.elements;
    }
  }

  void expect_gathered(const TestBucket& bucket) const {
    for (int r = 0; r < size_; ++r) {
      for (std::int64_t i = bucket.cut(r); i < bucket.cut(r + 1); ++i)
        ASSERT_EQ(bucket.at(i), content(r, i)) << "element " << i << " of rank " << r;
    }
  }

  Runtime runtime_ = adopt(MPI_COMM_WORLD, {.threads = 1});
  std::unique_ptr<Collectives> collectives_;
  int rank_ = runtime_.rank();
  int size_ = runtime_.size();
};

constexpr std::array some_blocks{std::int64_t{0}, std::int64_t{1}, std::int64_t{7},
                                 std::int64_t{1500}};

TEST_P(CollectivesTest, ReductionBringsEveryRanksSlice) {
  for (const DType dtype : {fp32, bf16}) {
    for (const std::int64_t blocks : some_blocks) {
      const TestBucket bucket(*collectives_, dtype, blocks);
      const auto reduction = collectives_->begin_reduce(bucket.sliced);
      expect_sum(bucket, reduction->contributions());
      EXPECT_TRUE(reduction->ready());
    }
  }
}

TEST_P(CollectivesTest, GatherBringsEveryRanksSlice) {
  for (const Written written : {Written::here, Written::everywhere}) {
    for (const std::int64_t blocks : some_blocks) {
      const TestBucket bucket(*collectives_, bf16, blocks);
      collectives_->barrier();
      if (written == Written::everywhere) {
        for (std::byte* copy : collectives_->copies(bucket.sliced))
          std::copy_n(bucket.sliced.slice(rank_), bucket.sliced.slice_bytes(rank_), copy);
      }
      collectives_->begin_gather(bucket.sliced, written)->wait();
      expect_gathered(bucket);
    }
  }
}

TEST_P(CollectivesTest, SeveralMayBeUnderWayAtOnce) {
  std::vector<TestBucket> reduced;
  std::vector<TestBucket> gathered;
  for (const std::int64_t blocks : {800, 3, 1100}) {
    reduced.emplace_back(*collectives_, bf16, blocks);
    gathered.emplace_back(*collectives_, fp32, blocks);
  }
  collectives_->barrier();
  std::vector<std::unique_ptr<Reduction>> reductions;
  std::vector<std::unique_ptr<Gather>> gathers;
  for (const auto& b : reduced) reductions.push_back(collectives_->begin_reduce(b.sliced));
  for (const auto& b : gathered)
    gathers.push_back(collectives_->begin_gather(b.sliced, Written::here));
  for (std::size_t k = reduced.size(); k-- > 0;) {
    gathers[k]->wait();
    expect_gathered(gathered[k]);
    expect_sum(reduced[k], reductions[k]->contributions());
  }
}

TEST_P(CollectivesTest, BucketsMayBeWrittenWhenAllHaveRead) {
  const TestBucket bucket(*collectives_, bf16, 300);
  for (int round = 0; round < 20; ++round) {
    {
      const auto reduction = collectives_->begin_reduce(bucket.sliced);
      expect_sum(bucket, reduction->contributions());
    }
    collectives_->wait_until_read(collectives_->reductions());
    std::memset(bucket.sliced.data, 0, static_cast<std::size_t>(bucket.memory.bytes()));
    for (std::int64_t i = 0; i < bucket.elements; ++i)
      device::store_value(bf16, bucket.sliced.data, i, content(rank_, i));
  }
}

TEST_P(CollectivesTest, BucketsMayLieAnywhereInAFlatBuffer) {
  constexpr std::int64_t buckets = 5;
  const std::int64_t slice = 2 * block_elements * size_of(fp32);
  const device::Buffer flat = collectives_->allocate(buckets * slice * size_);
  for (std::int64_t b = 0; b < buckets; ++b) {
    SlicedBucket bucket{.data = flat.data() + b * slice * size_, .dtype = fp32, .cuts = {}};
    for (int r = 0; r <= size_; ++r) bucket.cuts.push_back(r * slice);
    const float own = static_cast<float>(100 * b + rank_);
    for (std::int64_t i = 0; i < slice / 4; ++i)
      device::store_value(fp32, bucket.slice(rank_), i, own);
    collectives_->begin_gather(bucket, Written::here)->wait();
  }
  for (std::int64_t i = 0; i < flat.bytes() / 4; ++i) {
    const std::int64_t place = i * 4 / slice;
    ASSERT_EQ(flat.as<float>()[i], static_cast<float>(100 * (place / size_) + place % size_));
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, CollectivesTest,
                         ::testing::Values("mpi", "shared", "hierarchical"),
                         [](const auto& transport) { return transport.param; });

class ScalarsTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, {.threads = 1});
  Collectives& collectives_ = runtime_.impl().collectives();
  int rank_ = runtime_.rank();
  int size_ = runtime_.size();
};

TEST_F(ScalarsTest, AreReduced) {
  std::array<std::int64_t, 2> sums{1'000'000'000'000, rank_};
  collectives_.all_reduce_sum(sums);
  EXPECT_EQ(sums[0], 1'000'000'000'000 * size_);
  EXPECT_EQ(sums[1], size_ * (size_ - 1) / 2);
  std::array<std::int64_t, 1> least{10 - rank_};
  collectives_.all_reduce_min(least);
  EXPECT_EQ(least[0], 11 - size_);
  std::array<std::int64_t, 1> most{rank_};
  collectives_.all_reduce_max(most);
  EXPECT_EQ(most[0], size_ - 1);
}

TEST_F(ScalarsTest, TextsAndBroadcast) {
  const auto texts = collectives_.all_gather(std::string(static_cast<std::size_t>(rank_ * 3), 'a'));
  ASSERT_EQ(std::ssize(texts), size_);
  for (int r = 0; r < size_; ++r)
    EXPECT_EQ(texts[static_cast<std::size_t>(r)],
              std::string(static_cast<std::size_t>(r * 3), 'a'));
  for (int root = 0; root < size_; ++root) {
    std::vector<std::byte> bytes(1000, static_cast<std::byte>(rank_));
    collectives_.broadcast(bytes, root);
    EXPECT_EQ(bytes, std::vector<std::byte>(1000, static_cast<std::byte>(root)));
  }
}

TEST(RuntimeTest, SharesTheCoresOfTheNode) {
  const Runtime runtime = adopt(MPI_COMM_WORLD);
  EXPECT_GE(runtime.threads(), 1);
  EXPECT_EQ(adopt(MPI_COMM_WORLD, {.threads = 3}).threads(), 3);
  EXPECT_THROW((void)adopt(MPI_COMM_WORLD, {.threads = -1}), ConfigError);
}

TEST(RuntimeTest, RefusesWhatTheMachineCantHave) {
  EXPECT_THROW((void)adopt(MPI_COMM_WORLD, {.threads = 1, .collectives = "telegraph"}),
               ConfigError);
  EXPECT_THROW((void)adopt(MPI_COMM_WORLD, {.threads = 1, .collectives = "nccl"}), ConfigError);
  EXPECT_THROW((void)adopt(MPI_COMM_WORLD, {.threads = 1, .deadline = std::chrono::seconds(0)}),
               ConfigError);
}

TEST(RuntimeTest, TakesSharedMemoryOnOneNode) {
  const Runtime runtime = adopt(MPI_COMM_WORLD, {.threads = 1});
  const Topology& topology = runtime.impl().group->topology();
  if (topology.nodes == 1 && topology.ranks > 1) {
    EXPECT_EQ(runtime.impl().collectives().name(), "shared");
  }
}

TEST(TopologyTest, CountsNodesAndNeighbours) {
  const std::vector<int> two_of_two{0, 0, 2, 2};
  EXPECT_EQ(topology_of(two_of_two, 3),
            (Topology{.ranks = 4, .nodes = 2, .node = 1, .local_rank = 1, .local_size = 2}));
  EXPECT_EQ(topology_of(two_of_two, 3).rank_at(0, 1), 1);
  const std::vector<int> dealt{0, 1, 0, 1};
  EXPECT_FALSE(topology_of(dealt, 0).regular);
  EXPECT_EQ(topology_of(dealt, 3).local_rank, 1);
  EXPECT_EQ(topology_of(dealt, 3).node, 1);
  const std::vector<int> uneven{0, 0, 0, 3};
  EXPECT_FALSE(topology_of(uneven, 0).regular);
  EXPECT_FALSE(topology_of(uneven, 3).regular);
  const std::vector<int> alone{0};
  EXPECT_EQ(topology_of(alone, 0), Topology{});
  const std::vector<int> apart{0, 1, 2};
  EXPECT_EQ(topology_of(apart, 2), (Topology{.ranks = 3, .nodes = 3, .node = 2}));
}

}  // namespace
}  // namespace shardmix::comm
