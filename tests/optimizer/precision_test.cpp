// Parameters without master weights, and compact state: what they round off is right on average.

#include <gtest/gtest.h>

#include <cmath>

#include "optimizer/support.hpp"

namespace shardmix {
namespace {

class PrecisionTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  std::uint32_t rank_ = static_cast<std::uint32_t>(runtime_.rank());
};

/// Each update is a fortieth of the distance between two parameters: rounded to the nearest, none
/// would ever move.
TEST_F(PrecisionTest, UpdatesBelowTheSpacingAddUpWithoutMaster) {
  constexpr std::int64_t n = 10'000;
  constexpr int steps = 40;
  for (const DType dtype : {bf16, fp16}) {
    const double spacing = dtype == bf16 ? 0x1p-8 : 0x1p-11;  // below 1
    const AdamW rule{.lr = spacing / steps, .weight_decay = 0.0};
    Parameters parameters;
    parameters.add("weight", {n}, dtype);
    ShardedOptimizer optimizer(runtime_, parameters, rule, {.master = Master::none});
    testing::set_values(optimizer, optimizer.parameter("weight"), 1.0);
    testing::set_values(optimizer, optimizer.gradient("weight"), 0.5);  // its size is divided out
    optimizer.broadcast_parameters();
    for (int step = 0; step < steps; ++step) optimizer.step();
    double sum = 0.0;
    for (const double x : testing::values_of(optimizer, optimizer.parameter("weight"))) sum += x;
    // The number of moves is binomial, about 1 on average with a deviation of 1.
    EXPECT_NEAR((1.0 - sum / n) / spacing, 1.0, 0.05) << name_of(dtype);
  }
}

TEST_F(PrecisionTest, TheSeedDecidesTheRounding) {
  const auto with_seed = [&](std::uint64_t seed, Master master, StateFormat state) {
    const testing::TrainingCase c{.dtype = bf16,
                                  .options = {.master = master, .state = state, .seed = seed}};
    return train(runtime_, c, [&](ShardedOptimizer& o, std::uint32_t step) {
      testing::write_gradients(o, step, rank_);
    });
  };
  for (const auto& [master, state] :
       {std::pair{Master::none, StateFormat::full}, {Master::remainder, StateFormat::compact}}) {
    EXPECT_EQ(with_seed(1, master, state), with_seed(1, master, state));
    EXPECT_NE(with_seed(1, master, state), with_seed(2, master, state));
  }
  EXPECT_EQ(with_seed(1, Master::remainder, StateFormat::full),
            with_seed(2, Master::remainder, StateFormat::full));
}

/// How far two runs are apart, of the way that one of them went.
double distance(ShardedOptimizer& a, ShardedOptimizer& b, ShardedOptimizer& start) {
  double apart = 0.0;
  double way = 0.0;
  for (const Parameter& p : a.parameters()) {
    const std::vector<double> x = testing::values_of(a, a.parameter(p.name));
    const std::vector<double> other = testing::values_of(b, b.parameter(p.name));
    const std::vector<double> begin = testing::values_of(start, start.parameter(p.name));
    for (std::size_t i = 0; i < x.size(); ++i) {
      apart += std::pow(x[i] - other[i], 2);
      way += std::pow(x[i] - begin[i], 2);
    }
  }
  return std::sqrt(apart / way);
}

TEST_F(PrecisionTest, CompactStateStaysNearFullState) {
  for (Rule rule : all_rules()) {
    std::visit([](auto& r) { r.lr = 1e-3; }, rule);
    const auto make = [&](StateFormat state) {
      ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(), rule, {.state = state});
      testing::start(optimizer, runtime_.rank());
      return optimizer;
    };
    ShardedOptimizer full = make(StateFormat::full);
    ShardedOptimizer compact = make(StateFormat::compact);
    ShardedOptimizer start = make(StateFormat::full);
    for (std::uint32_t step = 1; step <= 20; ++step) {
      for (ShardedOptimizer* o : {&full, &compact}) {
        testing::write_gradients(*o, step, rank_);
        o->step();
      }
    }
    // A sign of m1 that flips costs Lion a whole step; the quotients of the others are off by a few
    // percent.
    const double most = std::holds_alternative<Lion>(rule) ? 0.25 : 0.1;
    EXPECT_LT(distance(full, compact, start), most) << name_of(rule);
  }
}

}  // namespace
}  // namespace shardmix
