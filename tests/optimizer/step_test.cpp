// What a step promises beyond the numbers: the same bits whichever way it is taken.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "comm/runtime_impl.hpp"
#include "optimizer/support.hpp"

namespace shardmix {
namespace {

using testing::train;
using testing::TrainingCase;

const AdEMAMix rule{.lr = 1e-2, .alpha_steps = 10, .beta3_steps = 10};

class StepTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  std::uint32_t rank_ = static_cast<std::uint32_t>(runtime_.rank());

  auto plain(const TrainingCase& c = {}) {
    return train(runtime_, c, [&](ShardedOptimizer& o, std::uint32_t step) {
      testing::write_gradients(o, step, rank_);
    });
  }
};

TEST_F(StepTest, MarkingInAnyOrderGivesTheSameBits) {
  const auto expected = plain();
  std::mt19937 random(rank_);  // another order on every rank
  const auto marked = train(runtime_, TrainingCase{}, [&](ShardedOptimizer& o, std::uint32_t step) {
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
  const auto late = train(runtime_, TrainingCase{}, [&](ShardedOptimizer& o, std::uint32_t step) {
    testing::write_gradients(o, step, rank_,
                             1000.0);  // the other use has not added its part yet
    o.mark_ready("head");
    testing::write_gradients(o, step, rank_);
    o.mark_ready("embedding");
  });
  EXPECT_EQ(late, expected);
}

/// Pages of the gradients that are in memory.
std::int64_t resident_pages(ShardedOptimizer& optimizer) {
  std::int64_t count = 0;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  for (const Parameter& p : optimizer.parameters()) {
    const TensorView view = optimizer.gradient(p.name);
    const auto begin = reinterpret_cast<std::uintptr_t>(view.data) / page * page;
    const auto bytes = static_cast<std::size_t>(view.elements * size_of(view.dtype));
    std::vector<unsigned char> pages(bytes / page + 2);
    EXPECT_EQ(mincore(reinterpret_cast<void*>(begin), bytes, pages.data()), 0);
    count += std::ranges::count_if(pages, [](unsigned char state) { return (state & 1) != 0; });
  }
  return count;
}

TEST_F(StepTest, ShardedGradientsTakeTheMemoryOfAFewBuckets) {
  if (!runtime_.impl().device->is_host()) GTEST_SKIP() << "gradients are sharded on hosts alone";
  constexpr std::int64_t bucket = 512 * 1024;  // 2 MiB, a huge page
  constexpr std::int64_t buckets = 24;
  Parameters parameters;
  for (int i = 0; i < buckets; ++i) parameters.add(std::to_string(i), {bucket}, fp32);
  ShardedOptimizer optimizer(runtime_, parameters, rule,
                             {.bucket_elements = bucket, .shard_gradients = true});
  optimizer.broadcast_parameters();
  EXPECT_EQ(optimizer.memory().gradient, most_gradient_buckets * bucket * 4);
  const std::int64_t pages = bucket * 4 / sysconf(_SC_PAGESIZE);
  for (int step = 0; step < 3; ++step) {
    for (int i = buckets; i-- > 0;) {
      const auto gradient = optimizer.gradient(std::to_string(i)).as<float>();
      EXPECT_TRUE(std::ranges::all_of(gradient, [](float x) { return x == 0.0f; })) << i;
      std::ranges::fill(gradient, 1.0f);
      optimizer.mark_ready(std::to_string(i));
      // Reading an untouched page of shared memory brings it in: only private memory is counted.
      if (runtime_.impl().collectives().name() == "mpi") {
        EXPECT_LE(resident_pages(optimizer), (most_gradient_buckets + 1) * pages);
      }
    }
    EXPECT_DOUBLE_EQ(optimizer.step().gradient_norm, std::sqrt(double{bucket} * buckets));
    if (runtime_.impl().collectives().name() == "mpi") {
      EXPECT_LE(resident_pages(optimizer), pages);
    }
  }
}

TEST_F(StepTest, ShardedGradientsGiveTheSameBits) {
  if (!runtime_.impl().device->is_host()) GTEST_SKIP() << "gradients are sharded on hosts alone";
  for (const std::int64_t micro_batches : {1, 3}) {
    const auto steps = [&](ShardedOptimizer& o, std::uint32_t step) {
      for (std::int64_t m = 0; m < micro_batches; ++m) {
        if (m > 0) o.accumulate();
        testing::write_gradients(o, step, rank_ + 10 * static_cast<std::uint32_t>(m));
        for (std::size_t i = o.parameters().size(); i-- > 0;) o.mark_ready(o.parameters()[i].name);
        o.mark_ready("head");
      }
    };
    const auto whole = train(runtime_, {.options = {.bucket_elements = 256}}, steps);
    const auto sharded =
        train(runtime_, {.options = {.bucket_elements = 256, .shard_gradients = true}}, steps);
    EXPECT_EQ(sharded, whole);
  }
}

TEST_F(StepTest, BucketSizeAndThreadsChangeNothing) {
  Runtime threaded = adopt(MPI_COMM_WORLD, testing::test_options(3));
  std::vector<TrainingCase> cases = testing::stochastic_cases();
  cases.emplace_back();
  for (const TrainingCase& c : cases) {
    SCOPED_TRACE(describe(c));
    const auto expected = plain(c);
    for (const std::int64_t bucket_elements : {256, 1 << 20}) {
      TrainingCase other = c;
      other.options.bucket_elements = bucket_elements;
      EXPECT_EQ(plain(other), expected) << bucket_elements;
    }
    EXPECT_EQ(train(threaded, c,
                    [&](ShardedOptimizer& o, std::uint32_t step) {
                      testing::write_gradients(o, step, rank_);
                    }),
              expected);
  }
}

TEST_F(StepTest, RemainderAndFullMasterGiveTheSameBits) {
  for (const StateFormat state : {StateFormat::full, StateFormat::compact}) {
    const auto with = [&](Master master) {
      return plain({.dtype = bf16, .options = {.master = master, .state = state}});
    };
    EXPECT_EQ(with(Master::remainder), with(Master::full));
  }
}

TEST_F(StepTest, OverlapGivesTheSameBits) {
  EXPECT_EQ(plain({.options = {.bucket_elements = 1024, .overlap = true}}), plain());
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
    Runtime single = adopt(alone, testing::test_options(1));
    const auto expect_equal = [&](TrainingCase c, std::uint32_t slots) {
      if (slots % static_cast<std::uint32_t>(runtime_.size()) != 0) return;
      SCOPED_TRACE(describe(c) + ", " + std::to_string(slots) + " slots");
      c.options.clip_norm = 1.0;
      const auto on = [&](Runtime& runtime) {
        const auto rank = static_cast<std::uint32_t>(runtime.rank());
        const auto size = static_cast<std::uint32_t>(runtime.size());
        return train(runtime, c, [=](ShardedOptimizer& o, std::uint32_t step) {
          for (std::uint32_t slot = rank; slot < slots; slot += size) {
            if (slot != rank) o.accumulate();
            testing::write_gradients(o, step, slot);
          }
        });
      };
      EXPECT_EQ(on(runtime_), on(single));
    };
    for (const std::uint32_t slots : {4u, 8u, 12u, 24u}) expect_equal({}, slots);
    for (const TrainingCase& c : testing::stochastic_cases()) expect_equal(c, 4);
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
