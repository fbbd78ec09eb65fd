#include "train/batch.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace shardmix::train {
namespace {

struct Case {
  std::int64_t batch;
  std::int64_t micro_batch;
  int ranks;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const std::int64_t batch : {1, 2, 3, 7, 8, 31}) {
    for (const std::int64_t micro_batch : {0, 1, 2, 3, 100}) {
      for (const int ranks : {1, 2, 3, 4, 5, 13}) cases.push_back({batch, micro_batch, ranks});
    }
  }
  return cases;
}

TEST(PartOf, PartsFollowEachOtherAndDifferByOneAtMost) {
  for (const std::int64_t total : {0, 1, 5, 12, 1000}) {
    for (const std::int64_t parts : {1, 2, 3, 7, 12, 30}) {
      std::int64_t end = 0;
      for (std::int64_t part = 0; part < parts; ++part) {
        const SequenceRange range = part_of(total, part, parts);
        EXPECT_EQ(range.begin, end);
        EXPECT_GE(range.size(), total / parts);
        EXPECT_LE(range.size(), (total + parts - 1) / parts);
        end = range.end;
      }
      EXPECT_EQ(end, total);
    }
  }
}

TEST(BatchPlan, SlotsCoverTheBatchOnceInTheirOrder) {
  for (const Case& c : all_cases()) {
    const std::int64_t count = plan_batch(c.batch, c.micro_batch, 0, c.ranks).micro_batches;
    std::int64_t next = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      for (int rank = 0; rank < c.ranks; ++rank) {
        const SequenceRange slot = plan_batch(c.batch, c.micro_batch, rank, c.ranks).micro_batch(i);
        EXPECT_EQ(slot.begin, next);
        next = slot.end;
      }
    }
    EXPECT_EQ(next, c.batch);
  }
}

TEST(BatchPlan, OneTwoAndFourRanksMakeTheSameSlotsByDefault) {
  for (const std::int64_t batch : {1, 2, 4, 5, 6, 7, 8, 9, 32, 33}) {
    for (const int ranks : {1, 2, 4}) {
      const BatchPlan plan = plan_batch(batch, std::nullopt, 0, ranks);
      EXPECT_EQ(plan.micro_batches * ranks, 4) << batch;
      EXPECT_EQ(plan.loss_weight, 4.0 / static_cast<double>(batch));
    }
  }
}

TEST(BatchPlan, EveryRankHasTheSameNumberOfMicroBatchesAndNoneIsTooLarge) {
  for (const Case& c : all_cases()) {
    const std::int64_t count = plan_batch(c.batch, c.micro_batch, 0, c.ranks).micro_batches;
    for (int rank = 0; rank < c.ranks; ++rank) {
      const BatchPlan plan = plan_batch(c.batch, c.micro_batch, rank, c.ranks);
      EXPECT_EQ(plan.micro_batches, count);
      for (std::int64_t i = 0; c.micro_batch > 0 && i < count; ++i) {
        EXPECT_LE(plan.micro_batch(i).size(), c.micro_batch);
      }
    }
  }
}

TEST(BatchPlan, TheMeanOverRanksAndMicroBatchesIsTheMeanOverTheBatch) {
  for (const Case& c : all_cases()) {
    double sum = 0.0;
    double terms = 0.0;
    for (int rank = 0; rank < c.ranks; ++rank) {
      const BatchPlan plan = plan_batch(c.batch, c.micro_batch, rank, c.ranks);
      for (std::int64_t i = 0; i < plan.micro_batches; ++i) {
        const SequenceRange range = plan.micro_batch(i);
        // Sequence number k stands for a gradient of k.
        for (std::int64_t k = range.begin; k < range.end; ++k) {
          sum += plan.loss_weight * static_cast<double>(k);
        }
        terms += 1.0;
      }
    }
    EXPECT_NEAR(sum / terms, static_cast<double>(c.batch - 1) / 2.0, 1e-12);
  }
}

}  // namespace
}  // namespace shardmix::train
