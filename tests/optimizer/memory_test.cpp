#include <gtest/gtest.h>

#include <memory>

#include "comm/runtime_impl.hpp"
#include "comm/transports.hpp"
#include "optimizer/support.hpp"
#include "support/forwarding_device.hpp"

namespace shardmix {
namespace {

/// A device that counts the bytes that are allocated on it.
class CountingDevice final : public testing::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;

  void* allocate(std::size_t bytes, device::MemoryKind kind) override {
    bytes_ += static_cast<std::int64_t>(bytes);
    return ForwardingDevice::allocate(bytes, kind);
  }
  void release(void* memory, std::size_t bytes, device::MemoryKind kind) noexcept override {
    bytes_ -= static_cast<std::int64_t>(bytes);
    ForwardingDevice::release(memory, bytes, kind);
  }

  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }

 private:
  std::int64_t bytes_ = 0;
};

/// The documented bytes of an element: m1, m2 and v in compact state; the scales come to the last
/// of them that is there.
std::array<std::int64_t, 3> compact_bytes(const RuleStates& states) {
  if (!states.m2) return {1, 0, states.v ? 1 : 0};
  return {states.m1 ? 1 : 0, states.m1 ? 2 : 3, 1};
}

MemoryReport documented(DType dtype, const OptimizerOptions& options, const RuleStates& states,
                        std::int64_t elements, std::int64_t ranks) {
  const std::int64_t own = elements / ranks;
  const std::int64_t parameter = dtype == fp32 ? 4 : 2;
  std::int64_t master = dtype == fp32 ? 0 : 4;
  if (dtype == bf16 && options.master == Master::remainder) master = 2;
  if (options.master == Master::none) master = 0;
  MemoryReport report{.parameter = parameter * elements,
                      .gradient = parameter * elements,
                      .reduced_gradient = 4 * own,
                      .master = master * own,
                      .m1 = states.m1 ? 4 * own : 0,
                      .m2 = states.m2 ? 4 * own : 0,
                      .v = states.v ? 4 * own : 0};
  if (options.state == StateFormat::compact) {
    const auto [m1, m2, v] = compact_bytes(states);
    report.m1 = m1 * own;
    report.m2 = m2 * own;
    report.v = v * own;
    (states.v ? report.v : report.m1) += 12 * own / 256;
  }
  return report;
}

/// What is allocated, what is reported, what was planned and the documented bytes are the same,
/// here for a model of whole blocks.
TEST(Memory, FollowsTheTable) {
  Runtime runtime = adopt(MPI_COMM_WORLD, testing::test_options());
  auto counting = std::make_unique<CountingDevice>(std::move(runtime.impl().device));
  const CountingDevice& device = *counting;
  runtime.impl().device = std::move(counting);
  runtime.impl().collectives_owner =
      comm::make_collectives("mpi", *runtime.impl().group, *runtime.impl().device, false);
  constexpr std::int64_t n = 12 * 256 * 10;  // divides by 1, 2, 3 and 4 ranks
  std::vector<Rule> rules = all_rules();
  rules.emplace_back(AdEMAMix{.beta1 = 0.0});
  for (const DType dtype : all_dtypes) {
    Parameters parameters;
    parameters.add("weight", {n}, dtype);
    for (const Master master : {Master::remainder, Master::full, Master::none}) {
      for (const StateFormat state : {StateFormat::full, StateFormat::compact}) {
        for (const Rule& rule : rules) {
          const OptimizerOptions options{.master = master, .state = state};
          SCOPED_TRACE(testing::describe({.rule = rule, .dtype = dtype, .options = options}));
          const MemoryReport expected =
              documented(dtype, options, states_of(rule), n, runtime.size());
          EXPECT_EQ(plan_memory(parameters, rule, runtime.rank(), runtime.size(), options),
                    expected);
          const std::int64_t before = device.bytes();
          const ShardedOptimizer optimizer(runtime, parameters, rule, options);
          EXPECT_EQ(optimizer.memory(), expected);
          // Besides: the sums of the bucket's squares and of all, and what was decided, twice.
          constexpr std::int64_t decided =
              2 * (sizeof(device::SquareSum) + sizeof(device::UpdateControl));
          EXPECT_EQ(device.bytes() - before, expected.total() + decided);
        }
      }
    }
  }
}

/// The tree over micro-batches holds one partial sum for each 1 among the binary digits of their
/// count.
TEST(Memory, RoomForPartialSumsIsPlannedAndOthersComeWhenNeeded) {
  Runtime runtime = adopt(MPI_COMM_WORLD, testing::test_options());
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
  Runtime runtime = adopt(MPI_COMM_WORLD, testing::test_options());
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
