#include "comm/collectives.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::comm {
namespace {

class CollectivesTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, {.threads = 1});
  Collectives& collectives_ = runtime_.impl().collectives();
  int rank_ = runtime_.rank();
  int size_ = runtime_.size();
};

/// What byte `i` of rank `rank`'s bucket holds: different for every rank and place.
std::byte content(int rank, std::int64_t i) {
  return static_cast<std::byte>((i * 31 + rank * 101 + i / 251) % 256);
}

/// A bucket cut unevenly; some slices are empty.
struct TestBucket {
  std::vector<std::byte> bytes;
  SlicedBucket sliced;

  TestBucket(int rank, int size, std::int64_t unit) {
    sliced.cuts = {0};
    for (int r = 0; r < size; ++r) sliced.cuts.push_back(sliced.cuts.back() + (r % 3) * unit);
    bytes.resize(static_cast<std::size_t>(sliced.cuts.back()));
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = content(rank, static_cast<std::int64_t>(i));
    sliced.data = bytes.data();
  }
};

TEST_F(CollectivesTest, ReductionBringsEveryRanksSlice) {
  for (const std::int64_t unit : {0, 1, 7, 4096, 1'000'003}) {
    TestBucket bucket(rank_, size_, unit);
    const auto reduction = collectives_.begin_reduce(bucket.sliced);
    const auto sources = reduction->sources();
    ASSERT_EQ(std::ssize(sources), size_);
    const auto begin = bucket.sliced.cuts[static_cast<std::size_t>(rank_)];
    const auto end = bucket.sliced.cuts[static_cast<std::size_t>(rank_) + 1];
    for (int r = 0; r < size_; ++r) {
      const auto* source = static_cast<const std::byte*>(sources[static_cast<std::size_t>(r)]);
      for (std::int64_t i = begin; i < end; ++i)
        ASSERT_EQ(source[i - begin], content(r, i)) << "from rank " << r;
    }
  }
}

TEST_F(CollectivesTest, GatherBringsEveryRanksSlice) {
  for (const std::int64_t unit : {0, 1, 7, 4096, 1'000'003}) {
    TestBucket bucket(rank_, size_, unit);
    collectives_.begin_gather(bucket.sliced)->wait();
    for (int r = 0; r < size_; ++r) {
      for (auto i = bucket.sliced.cuts[static_cast<std::size_t>(r)];
           i < bucket.sliced.cuts[static_cast<std::size_t>(r) + 1]; ++i) {
        ASSERT_EQ(bucket.bytes[static_cast<std::size_t>(i)], content(r, i)) << "of rank " << r;
      }
    }
  }
}

TEST_F(CollectivesTest, SeveralMayBeUnderWayAtOnce) {
  std::vector<TestBucket> buckets;
  for (const std::int64_t unit : {100'000, 3, 70'000}) buckets.emplace_back(rank_, size_, unit);
  std::vector<std::unique_ptr<Reduction>> reductions;
  std::vector<std::unique_ptr<Gather>> gathers;
  std::vector<TestBucket> gathered = buckets;
  for (auto& b : gathered) b.sliced.data = b.bytes.data();
  for (auto& b : buckets)
    reductions.push_back(collectives_.begin_reduce({b.bytes.data(), b.sliced.cuts}));
  for (auto& b : gathered) gathers.push_back(collectives_.begin_gather(b.sliced));
  for (std::size_t k = buckets.size(); k-- > 0;) {
    gathers[k]->wait();
    const auto sources = reductions[k]->sources();
    const auto begin = buckets[k].sliced.cuts[static_cast<std::size_t>(rank_)];
    const auto end = buckets[k].sliced.cuts[static_cast<std::size_t>(rank_) + 1];
    for (int r = 0; r < size_; ++r) {
      const auto* source = static_cast<const std::byte*>(sources[static_cast<std::size_t>(r)]);
      if (begin < end) {
        EXPECT_EQ(source[end - begin - 1], content(r, end - 1));
      }
    }
    const auto last = static_cast<std::int64_t>(gathered[k].bytes.size()) - 1;
    if (last >= 0) {
      EXPECT_EQ(gathered[k].bytes.back(),
                content((size_ - 1) % 3 == 0 ? size_ - 2 : size_ - 1, last));
    }
  }
}

TEST_F(CollectivesTest, Scalars) {
  std::array<double, 2> sums{1.5, static_cast<double>(rank_)};
  collectives_.all_reduce_sum(sums);
  EXPECT_EQ(sums[0], 1.5 * size_);
  EXPECT_EQ(sums[1], size_ * (size_ - 1) / 2.0);
  std::array<std::int64_t, 1> least{10 - rank_};
  collectives_.all_reduce_min(least);
  EXPECT_EQ(least[0], 11 - size_);
  std::array<std::int64_t, 1> most{rank_};
  collectives_.all_reduce_max(most);
  EXPECT_EQ(most[0], size_ - 1);
}

TEST_F(CollectivesTest, TextsAndBroadcast) {
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

}  // namespace
}  // namespace shardmix::comm
