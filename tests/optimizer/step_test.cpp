// What a step promises beyond the numbers: the same bits whichever way it is taken.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "shardmix/error.hpp"
#include "support/fixture.hpp"

namespace shardmix {
namespace {

const AdEMAMix rule{.lr = 1e-2, .alpha_steps = 10, .beta3_steps = 10};
constexpr std::uint32_t steps = 5;

/// Trains on the ranks of `runtime`, with its gradients written by `write(optimizer, step)`.
template <class Write>
auto train(Runtime& runtime, const OptimizerOptions& options, DType dtype, const Write& write) {
  ShardedOptimizer optimizer(runtime, testing::awkward_parameters(dtype), rule, options);
  testing::start(optimizer, runtime.rank());
  std::vector<double> norms;
  for (std::uint32_t step = 1; step <= steps; ++step) {
    write(optimizer, step);
    norms.push_back(optimizer.step().gradient_norm);
  }
  optimizer.wait();
  return std::pair(testing::snapshot(optimizer), norms);
}

class StepTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, {.threads = 1});
  std::uint32_t rank_ = static_cast<std::uint32_t>(runtime_.rank());

  auto plain(DType dtype = fp32, const OptimizerOptions& options = {.bucket_elements = 1024}) {
    return train(runtime_, options, dtype, [&](ShardedOptimizer& o, std::uint32_t step) {
      testing::write_gradients(o, step, rank_);
    });
  }
};

TEST_F(StepTest, MarkingInAnyOrderGivesTheSameBits) {
  const auto expected = plain();
  std::mt19937 random(rank_);  // another order on every rank
  const auto marked = train(runtime_, {.bucket_elements = 1024}, fp32,
                            [&](ShardedOptimizer& o, std::uint32_t step) {
                              testing::write_gradients(o, step, rank_);
                              std::vector<std::string> names{"head"};
                              for (const Parameter& p : o.parameters()) names.push_back(p.name);
                              std::ranges::shuffle(names, random);
                              for (const std::string& name : names) o.mark_ready(name);
                            });
  EXPECT_EQ(marked, expected);
}

TEST_F(StepTest, ATiedParameterWaitsForAllItsNames) {
  const auto expected = plain();
  const auto late = train(
      runtime_, {.bucket_elements = 1024}, fp32, [&](ShardedOptimizer& o, std::uint32_t step) {
        testing::write_gradients(o, step, rank_,
                                 1000.0);  // the other use has not added its part yet
        o.mark_ready("head");
        testing::write_gradients(o, step, rank_);
        o.mark_ready("embedding");
      });
  EXPECT_EQ(late, expected);
}

TEST_F(StepTest, BucketSizeAndThreadsChangeNothing) {
  const auto expected = plain();
  EXPECT_EQ(plain(fp32, {.bucket_elements = 256}), expected);
  EXPECT_EQ(plain(fp32, {.bucket_elements = 1 << 20}), expected);
  Runtime threaded = adopt(MPI_COMM_WORLD, {.threads = 3});
  const auto with_threads = train(
      threaded, {.bucket_elements = 1024}, fp32,
      [&](ShardedOptimizer& o, std::uint32_t step) { testing::write_gradients(o, step, rank_); });
  EXPECT_EQ(with_threads, expected);
}

TEST_F(StepTest, RemainderAndFullMasterGiveTheSameBits) {
  EXPECT_EQ(plain(bf16, {.master = Master::remainder}), plain(bf16, {.master = Master::full}));
}

TEST_F(StepTest, OverlapGivesTheSameBits) {
  EXPECT_EQ(plain(fp32, {.bucket_elements = 1024, .overlap = true}), plain());
}

TEST_F(StepTest, WaitByNameBringsThatParameter) {
  ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), rule,
                             {.bucket_elements = 256, .overlap = true});
  testing::start(optimizer, runtime_.rank());
  testing::write_gradients(optimizer, 1, rank_);
  optimizer.step();
  for (const char* name : {"prime", "frozen", "empty", "head"}) optimizer.wait(name);
  const auto waited = testing::snapshot(optimizer).at("prime");
  optimizer.wait();
  EXPECT_EQ(testing::snapshot(optimizer).at("prime"), waited);
}

/// Slots are ranks or micro-batches: the same slots give the same bits, as long as their number is
/// the same.
TEST_F(StepTest, RanksAndMicroBatchesAreTheSameTree) {
  if (runtime_.size() == 3) GTEST_SKIP() << "threes are another tree than twos";
  MPI_Comm alone = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, runtime_.rank(), 0, &alone);
  {
    Runtime single = adopt(alone, {.threads = 1});
    for (const std::uint32_t slots : {4u, 8u, 12u, 24u}) {
      if (slots % static_cast<std::uint32_t>(runtime_.size()) != 0) continue;
      const auto over_slots = [&](std::uint32_t rank, std::uint32_t size) {
        return [=](ShardedOptimizer& o, std::uint32_t step) {
          for (std::uint32_t slot = rank; slot < slots; slot += size) {
            if (slot != rank) o.accumulate();
            testing::write_gradients(o, step, slot);
          }
        };
      };
      const OptimizerOptions options{.clip_norm = 1.0, .bucket_elements = 1024};
      const auto expected = train(single, options, fp32, over_slots(0, 1));
      const auto found = train(runtime_, options, fp32,
                               over_slots(rank_, static_cast<std::uint32_t>(runtime_.size())));
      EXPECT_EQ(found, expected) << slots << " slots";
    }
  }
  MPI_Comm_free(&alone);
}

TEST_F(StepTest, AnOptimizerMayEndInTheMiddleOfAStep) {
  for (int i = 0; i < 3; ++i) {
    ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), rule,
                               {.bucket_elements = 1024});
    testing::start(optimizer, runtime_.rank());
    for (const Parameter& p : optimizer.parameters()) optimizer.mark_ready(p.name);
    optimizer.mark_ready("head");
  }
}

TEST_F(StepTest, SwitchingKeepsTheStateAndStartsM2) {
  ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), AdamW{.lr = 1e-2});
  testing::start(optimizer, runtime_.rank());
  for (std::uint32_t step = 1; step <= 3; ++step) {
    testing::write_gradients(optimizer, step, rank_);
    optimizer.step();
  }
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 3, .updates = 3, .slow_step = 0}));
  const auto before = testing::snapshot(optimizer);
  EXPECT_EQ(optimizer.memory().m2, 0);
  optimizer.switch_rule(rule);
  EXPECT_EQ(testing::snapshot(optimizer), before);
  EXPECT_EQ(optimizer.memory().m2, optimizer.memory().m1);
  testing::write_gradients(optimizer, 4, rank_);
  const StepReport report = optimizer.step();
  EXPECT_EQ(report.alpha, rule.alpha_at(1));
  EXPECT_EQ(optimizer.clocks(), (Clocks{.step = 4, .updates = 4, .slow_step = 1}));

  optimizer.switch_rule(AdEMAMix{.beta1 = 0.0});
  EXPECT_EQ(optimizer.memory().m1, 0);
  EXPECT_THROW(optimizer.switch_rule(AdamW{}), ConfigError);
}

TEST_F(StepTest, RankZeroAloneWarnsOfABeta3TooLargeForTheRun) {
  const AdEMAMix too_slow{.lr = cosine(1e-2, {.steps = 100}), .beta3 = 0.9999};
  const AdEMAMix suitable{.lr = cosine(1e-2, {.steps = 100}), .beta3 = auto_beta3(100)};
  const std::string warning =
      rank_ == 0 ? "warning: " + beta3_advice(too_slow, 100) + '\n' : std::string();
  const auto said = [](const auto& act) {
    ::testing::internal::CaptureStderr();
    act();
    return ::testing::internal::GetCapturedStderr();
  };
  for (const Rule& start : {Rule(suitable), Rule(AdEMAMix{.lr = 1e-2}), Rule(AdamW{})}) {
    EXPECT_EQ(said([&] { ShardedOptimizer(runtime_, testing::awkward_parameters(), start); }), "");
  }
  EXPECT_EQ(said([&] { ShardedOptimizer(runtime_, testing::awkward_parameters(), too_slow); }),
            warning);
  ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), suitable);
  EXPECT_EQ(said([&] { optimizer.switch_rule(suitable); }), "");
  EXPECT_EQ(said([&] { optimizer.switch_rule(too_slow); }), warning);
}

}  // namespace
}  // namespace shardmix
