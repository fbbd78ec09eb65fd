// More elements than 32 bits count.

#include <gtest/gtest.h>

#include "optimizer/support.hpp"

namespace shardmix {
namespace {

TEST(Huge, MoreThanTwoToThe31ElementsInOneBuffer) {
  Runtime runtime = adopt(MPI_COMM_WORLD, testing::test_options());
  constexpr std::int64_t elements = (std::int64_t{1} << 31) + 1'000'003;
  Parameters parameters;
  parameters.add("huge", {elements}, bf16);
  // Lion's step is lr times the gradient's sign, and none where gradient and m1 are zero.
  ShardedOptimizer optimizer(runtime, parameters, Lion{.lr = 0.25, .weight_decay = 0.0},
                             {.master = Master::none, .state = StateFormat::compact});
  optimizer.broadcast_parameters();
  const auto gradient = optimizer.gradient("huge").as<std::uint16_t>();
  const std::vector<std::size_t> places{
      0, 255, 4'194'304, (1u << 31) - 1, (1u << 31), static_cast<std::size_t>(elements - 1)};
  double sign = 1.0;
  for (const std::size_t i : places) {
    gradient[i] = math::bf16_from_float(static_cast<float>(sign));
    sign = -sign;
  }
  const StepReport report = optimizer.step();
  EXPECT_FALSE(report.skipped) << report.reason;
  EXPECT_DOUBLE_EQ(report.gradient_norm, std::sqrt(static_cast<double>(places.size())));
  const auto values = optimizer.parameter("huge").as<std::uint16_t>();
  std::size_t next = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] == 0) continue;
    ASSERT_LT(next, places.size()) << i;
    ASSERT_EQ(i, places[next]);
    EXPECT_EQ(math::float_from_bf16(values[i]), next % 2 == 0 ? -0.25f : 0.25f) << i;
    ++next;
  }
  EXPECT_EQ(next, places.size());
}

}  // namespace
}  // namespace shardmix
