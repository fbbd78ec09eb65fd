#include "layout/layout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "math/block.hpp"
#include "shardmix/error.hpp"

namespace shardmix::layout {
namespace {

constexpr std::int64_t block = math::block_elements;

/// Sizes that are prime, zero, one, just around a block and larger than a bucket; mixed dtypes,
/// groups and frozen ones.
Parameters awkward() {
  Parameters parameters;
  int i = 0;
  for (const std::int64_t size : {1, 0, 255, 256, 257, 7919, 3, 0, 100'003, 512, 2, 65'537}) {
    const Group group{.weight_decay = i % 2 == 0 ? std::optional(0.0) : std::nullopt,
                      .trainable = i % 5 != 4};
    parameters.add("p" + std::to_string(i), {size}, i % 3 == 0 ? bf16 : fp32, group);
    ++i;
  }
  return parameters;
}

/// Calls `visit(bucket)` for all buckets, trainable and frozen.
template <class Visit>
void for_each_bucket(const Layout& layout, const Visit& visit) {
  for (const Bucket& b : layout.buckets()) visit(b);
  for (const Bucket& b : layout.frozen_buckets()) visit(b);
}

TEST(Layout, BucketsTileEveryParameterOnce) {
  const Parameters parameters = awkward();
  for (const std::int64_t bucket_elements : {block, 4 * block, 1024 * block}) {
    const Layout layout(parameters, bucket_elements);
    std::vector<std::int64_t> seen(parameters.size(), 0);
    for_each_bucket(layout, [&](const Bucket& b) {
      ASSERT_LE(b.range.size(), bucket_elements);
      ASSERT_EQ(b.range.begin % block, 0);
      ASSERT_EQ(b.range.size() % block, 0);
      for (const Piece& piece : layout.pieces(b.range)) {
        ASSERT_EQ(parameters[piece.parameter].dtype, b.dtype);
        ASSERT_EQ(parameters[piece.parameter].group.trainable, b.trainable);
        ASSERT_GT(piece.count, 0);
        seen[piece.parameter] += piece.count;
      }
    });
    for (std::size_t i = 0; i < parameters.size(); ++i)
      EXPECT_EQ(seen[i], parameters[i].elements()) << i;
  }
}

TEST(Layout, SlicesTileEveryBucketForEveryWorldSize) {
  const Layout layout(awkward(), 16 * block);
  for (const int size : {1, 2, 3, 5, 8, 1000}) {
    for_each_bucket(layout, [&](const Bucket& b) {
      std::int64_t next = b.range.begin;
      for (int rank = 0; rank < size; ++rank) {
        const Range s = slice(b, rank, size);
        ASSERT_EQ(s.begin, next);
        ASSERT_GE(s.end, s.begin);
        ASSERT_EQ(s.begin % block, 0);
        ASSERT_EQ(layout.pieces(s).empty(), s.empty());
        // As even as whole blocks go.
        ASSERT_LE(s.size(), (b.range.size() / block + size - 1) / size * block);
        next = s.end;
      }
      ASSERT_EQ(next, b.range.end);
    });
  }
}

TEST(Layout, PiecesOfSlicesAreDisjointAndComplete) {
  const Parameters parameters = awkward();
  const Layout layout(parameters, 8 * block);
  std::vector<std::vector<int>> covered;
  for (const Parameter& p : parameters)
    covered.emplace_back(static_cast<std::size_t>(p.elements()), 0);
  for (int rank = 0; rank < 3; ++rank) {
    for_each_bucket(layout, [&](const Bucket& b) {
      for (const Piece& piece : layout.pieces(slice(b, rank, 3))) {
        EXPECT_EQ(piece.begin, layout.range_of(piece.parameter).begin + piece.offset);
        for (std::int64_t i = 0; i < piece.count; ++i) {
          ++covered[piece.parameter][static_cast<std::size_t>(piece.offset + i)];
        }
      }
    });
  }
  for (const auto& parameter : covered) {
    for (const int times : parameter) ASSERT_EQ(times, 1);
  }
}

TEST(Layout, GroupRunsCoverEachRangeInWholeBlocks) {
  const Parameters parameters = awkward();
  const Layout layout(parameters, 64 * block);
  for_each_bucket(layout, [&](const Bucket& b) {
    std::int64_t next = b.range.begin;
    for (const GroupRun& run : layout.group_runs(b.range)) {
      ASSERT_EQ(run.range.begin, next);
      for (const Piece& piece : layout.pieces(run.range)) {
        EXPECT_EQ(layout.groups()[run.group], parameters[piece.parameter].group);
      }
      next = run.range.end;
    }
    ASSERT_EQ(next, b.range.end);
  });
}

TEST(Layout, OffsetsOfBytesDoNotOverlapAndGradientsComeFirst) {
  const Parameters parameters = awkward();
  const Layout layout(parameters, 64 * block);
  std::vector<std::pair<std::int64_t, std::int64_t>> spans;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].elements() == 0) continue;
    const std::int64_t begin = layout.byte_offset(layout.range_of(i).begin);
    const std::int64_t end = begin + parameters[i].elements() * size_of(parameters[i].dtype);
    EXPECT_EQ(begin % 512, 0);
    EXPECT_LE(end,
              parameters[i].group.trainable ? layout.gradient_bytes() : layout.parameter_bytes());
    spans.emplace_back(begin, end);
  }
  std::ranges::sort(spans);
  for (std::size_t i = 1; i < spans.size(); ++i) EXPECT_LE(spans[i - 1].second, spans[i].first);
}

TEST(Layout, DoesNotDependOnTheWorldSizeAndTakesHugeParameters) {
  Parameters parameters;
  parameters.add("huge", {1 << 20, 1 << 13}, bf16);  // 2^33 elements
  parameters.add("small", {3}, bf16);
  const Layout layout(parameters, std::int64_t{1} << 30);
  EXPECT_EQ(layout.buckets().size(), 9u);
  EXPECT_EQ(layout.parameter_bytes(), ((std::int64_t{1} << 33) + block) * 2);
  std::int64_t sum = 0;
  for (int rank = 0; rank < 7; ++rank) sum += shard(layout, rank, 7).elements;
  EXPECT_EQ(sum, (std::int64_t{1} << 33) + block);
}

TEST(Layout, RefusesBucketsThatCutBlocks) {
  for (const std::int64_t bad : {0L, -256L, 100L, 257L})
    EXPECT_THROW(Layout(awkward(), bad), ConfigError);
}

}  // namespace
}  // namespace shardmix::layout
