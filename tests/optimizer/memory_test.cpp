#include <gtest/gtest.h>

#include "support/fixture.hpp"

namespace shardmix {
namespace {

/// What is allocated, what was planned and design's table of bytes are the same, here for a model
/// of whole blocks.
TEST(Memory, FollowsTheTable) {
  Runtime runtime = adopt(MPI_COMM_WORLD);
  constexpr std::int64_t n = 12 * 256 * 10;  // divides by 1, 2, 3 and 4 ranks
  const std::int64_t r = runtime.size();
  struct Row {
    DType dtype;
    Master master;
    std::int64_t parameter, master_bytes;
  };
  for (const Row& row : {Row{fp32, Master::remainder, 4, 0}, Row{bf16, Master::full, 2, 4},
                         Row{bf16, Master::remainder, 2, 2}}) {
    Parameters parameters;
    parameters.add("weight", {n}, row.dtype);
    const OptimizerOptions options{.master = row.master};
    for (const Rule& rule : {Rule(AdEMAMix{}), Rule(AdamW{}), Rule(AdEMAMix{.beta1 = 0.0})}) {
      const RuleStates states = states_of(rule);
      const MemoryReport expected{.parameter = row.parameter * n,
                                  .gradient = row.parameter * n,
                                  .reduced_gradient = 4 * n / r,
                                  .master = row.master_bytes * n / r,
                                  .m1 = states.m1 ? 4 * n / r : 0,
                                  .m2 = states.m2 ? 4 * n / r : 0,
                                  .v = 4 * n / r};
      const ShardedOptimizer optimizer(runtime, parameters, rule, options);
      EXPECT_EQ(optimizer.memory(), expected);
      EXPECT_EQ(plan_memory(parameters, rule, runtime.rank(), runtime.size(), options), expected);
    }
  }
}

/// The tree over micro-batches holds one partial sum for each 1 among the binary digits of their
/// count.
TEST(Memory, RoomForPartialSumsIsPlannedAndOthersComeWhenNeeded) {
  Runtime runtime = adopt(MPI_COMM_WORLD);
  const Parameters parameters = testing::awkward_parameters();
  const std::int64_t one =
      plan_memory(parameters, AdamW{}, runtime.rank(), runtime.size()).reduced_gradient;
  for (const auto& [micro_batches, levels] :
       {std::pair{1, 1}, {2, 1}, {3, 2}, {4, 2}, {6, 2}, {7, 3}, {8, 3}, {100, 6}}) {
    const OptimizerOptions options{.micro_batches = micro_batches};
    const auto plan = plan_memory(parameters, AdamW{}, runtime.rank(), runtime.size(), options);
    EXPECT_EQ(plan.reduced_gradient, levels * one) << micro_batches;
    for (const bool planned : {true, false}) {
      ShardedOptimizer optimizer(runtime, parameters, AdamW{},
                                 planned ? options : OptimizerOptions{});
      optimizer.broadcast_parameters();
      EXPECT_EQ(optimizer.memory().reduced_gradient, planned ? levels * one : one);
      for (int i = 1; i < micro_batches; ++i) optimizer.accumulate();
      optimizer.step();
      EXPECT_EQ(optimizer.memory().reduced_gradient, levels * one) << micro_batches;
    }
  }
}

TEST(Memory, OfAllRanksAddsUpForAwkwardShapes) {
  Runtime runtime = adopt(MPI_COMM_WORLD);
  for (const DType dtype : {fp32, bf16}) {
    const Parameters parameters = testing::awkward_parameters(dtype);
    const ShardedOptimizer optimizer(runtime, parameters, AdEMAMix{});
    EXPECT_EQ(optimizer.memory(),
              plan_memory(parameters, AdEMAMix{}, runtime.rank(), runtime.size()));
    std::int64_t m1 = 0;
    for (int rank = 0; rank < runtime.size(); ++rank)
      m1 += plan_memory(parameters, AdEMAMix{}, rank, runtime.size()).m1;
    EXPECT_EQ(m1, plan_memory(parameters, AdEMAMix{}, 0, 1).m1);
  }
}

}  // namespace
}  // namespace shardmix
