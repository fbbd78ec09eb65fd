// What an optimizer takes of a GPU: docs/internals/gpu-memory.md has the table. Emulated GPUs give
// pages only to what is written.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "device/device.hpp"
#include "emulation/emulation.hpp"
#include "layout/layout.hpp"
#include "math/block.hpp"
#include "optimizer/support.hpp"
#include "train/model_shape.hpp"

namespace shardmix {
namespace {

struct Row {
  std::string_view name;
  std::int64_t bytes;
};

Runtime runtime_of_one() {
  RuntimeOptions options = testing::test_options();
  options.collectives = "shared";
  return adopt(MPI_COMM_WORLD, options);
}

class GpuMemory : public ::testing::TestWithParam<StateFormat> {};

/// Full: 2 + 2 + 4 + 2 + 12 bytes of each parameter. Compact: 4 + 12/256 in place of 12.
TEST_P(GpuMemory, OfThreeBillionParametersIsTheTable) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer takes an eighth of it";
#endif
  const bool is_full = GetParam() == StateFormat::full;
  const Parameters parameters =
      train::declare_parameters({.width = 2048, .heads = 16, .layers = 60, .context = 1024}, bf16);
  std::int64_t n = 0;
  for (const Parameter& p : parameters) n += p.elements();
  ASSERT_GT(n, 3'000'000'000);

  emulation::mark();
  emulation::reset_most();
  const std::int64_t before = emulation::bytes_allocated();
  Runtime runtime = runtime_of_one();
  const std::int64_t of_runtime = emulation::bytes_allocated() - before;
  const OptimizerOptions options{.state = GetParam()};
  const ShardedOptimizer optimizer(runtime, parameters, AdEMAMix{}, options);

  const layout::Layout layout(parameters, default_bucket_elements(DeviceKind::cuda, 1));
  constexpr std::int64_t square_sum = sizeof(device::SquareSum);
  const std::int64_t blocks = n / math::block_elements;
  std::vector<Row> rows{{"parameters", 2 * n},
                        {"gradients", 2 * n},
                        {"reduced gradient", 4 * n},
                        {"remainders", 2 * n}};
  if (is_full)
    rows.insert(rows.end(), {{"m1", 4 * n}, {"m2", 4 * n}, {"v", 4 * n}});
  else
    rows.insert(rows.end(), {{"words of m1, m2 and v", 4 * n}, {"their scales", 12 * blocks}});
  rows.insert(rows.end(), {{"sums of each bucket's squares, and of all",
                            (std::ssize(layout.buckets()) + 1) * square_sum},
                           {"what was decided", sizeof(device::UpdateControl)},
                           {"between ranks: this rank's sums", 2 * square_sum},
                           {"between ranks: all ranks' sums", square_sum}});
  std::int64_t total = 0;
  for (const Row& row : rows) {
    total += row.bytes;
    fmt::print("{:<45} {:>14}\n", row.name, row.bytes);
  }
  fmt::print("{:<45} {:>14} of {} parameters\n", "together", total, n);
  EXPECT_EQ(emulation::bytes_allocated() - before, total);
  EXPECT_EQ(emulation::most_bytes_allocated() - before, total);
  EXPECT_EQ(emulation::counts().allocations, std::ssize(rows));
  EXPECT_EQ(of_runtime, 3 * square_sum);
  EXPECT_EQ(optimizer.memory().total(), 10 * n + (is_full ? 12 * n : 4 * n + 12 * blocks));
}

INSTANTIATE_TEST_SUITE_P(State, GpuMemory,
                         ::testing::Values(StateFormat::full, StateFormat::compact),
                         [](const auto& of) {
                           return of.param == StateFormat::full ? "Full" : "Compact";
                         });

TEST(GpuMemoryOfSteps, IsWhatTheOptimizerHad) {
  Runtime runtime = runtime_of_one();
  ShardedOptimizer optimizer(runtime, testing::awkward_parameters(bf16), AdEMAMix{},
                             {.bucket_elements = 1024});
  testing::start(optimizer);
  emulation::reset_most();
  const std::int64_t before = emulation::bytes_allocated();
  for (std::uint32_t step = 1; step <= 3; ++step) {
    testing::write_gradients(optimizer, step, 0);
    optimizer.step();
  }
  optimizer.wait();
  EXPECT_EQ(emulation::most_bytes_allocated(), before);
}

}  // namespace
}  // namespace shardmix
