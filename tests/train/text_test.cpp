#include "train/text.hpp"

#include <gtest/gtest.h>

#include <set>

#include "shardmix/error.hpp"

namespace shardmix::train {
namespace {

constexpr std::int64_t mebibyte = std::int64_t{1} << 20;

TEST(SplitText, HoldsOutTheLastTwentiethButAMebibyteAtMost) {
  EXPECT_EQ(split_text(1'000'000, 128).held_out, 50'000);
  EXPECT_EQ(split_text(1'000'000, 128).training, 950'000);
  EXPECT_EQ(split_text(1000 * mebibyte, 128).held_out, mebibyte);
}

TEST(SplitText, AShortTextStillHoldsOutASequence) {
  const TextSplit split = split_text(258, 128);
  EXPECT_EQ(split.training, 129);
  EXPECT_EQ(split.held_out, 129);
  EXPECT_THROW((void)split_text(257, 128), ConfigError);
  EXPECT_THROW((void)split_text(0, 1), ConfigError);
}

TEST(TrainingWindow, LiesWithinTheTrainingPart) {
  const TextSplit split = split_text(400, 100);
  std::set<std::int64_t> seen;
  for (std::int64_t step = 1; step <= 200; ++step) {
    for (std::int64_t index = 0; index < 50; ++index) {
      const std::int64_t begin = training_window(split, 100, 7, step, index);
      EXPECT_GE(begin, 0);
      EXPECT_LE(begin + 101, split.training);
      seen.insert(begin);
    }
  }
  // 10,000 draws from 199 starts miss none.
  EXPECT_EQ(static_cast<std::int64_t>(seen.size()), split.training - 100);
}

TEST(TrainingWindow, DependsOnSeedStepAndIndex) {
  const TextSplit split = split_text(100 * mebibyte, 128);
  std::set<std::int64_t> seen;
  for (const std::uint64_t seed : {1ULL, 2ULL, 1ULL << 40}) {
    for (const std::int64_t step : {1, 2, 3}) {
      for (const std::int64_t index : {0, 1, 2}) {
        const std::int64_t begin = training_window(split, 128, seed, step, index);
        EXPECT_EQ(begin, training_window(split, 128, seed, step, index));
        seen.insert(begin);
      }
    }
  }
  EXPECT_EQ(seen.size(), 27U);
}

TEST(HeldOutWindows, LieInTheHeldOutPartWithoutOverlap) {
  for (const std::int64_t bytes : {258, 1000, 100'000, 10'000'000}) {
    for (const std::int64_t most : {1, 2, 7, 64, 100'000}) {
      const TextSplit split = split_text(bytes, 128);
      const auto windows = held_out_windows(split, 128, most);
      ASSERT_FALSE(windows.empty());
      EXPECT_LE(static_cast<std::int64_t>(windows.size()), most);
      std::int64_t end = split.training;
      for (const std::int64_t begin : windows) {
        EXPECT_GE(begin, end);
        end = begin + 128;
        EXPECT_LE(begin + 129, bytes);
      }
    }
  }
}

TEST(HeldOutWindows, NoneWhereNoneAreWanted) {
  EXPECT_TRUE(held_out_windows(split_text(1000, 128), 128, 0).empty());
}

}  // namespace
}  // namespace shardmix::train
