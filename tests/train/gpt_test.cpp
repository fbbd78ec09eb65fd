#include "train/gpt.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "math/bfloat16.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::train {
namespace {

constexpr ModelShape tiny{.width = 16, .heads = 2, .layers = 2, .context = 8};

/// A tiny model on its own communicator, and some sequences.
struct TinyGpt {
  explicit TinyGpt(DType dtype = fp32, const OptimizerOptions& options = {})
      : runtime(adopt(MPI_COMM_WORLD)),
        optimizer(runtime, declare_parameters(tiny, dtype), AdamW{.lr = 1e-2, .weight_decay = 0.0},
                  options),
        model(tiny, optimizer, DeviceKind::host, 1) {
    model.write_initial_values(1);
    optimizer.broadcast_parameters();
    optimizer.zero_gradients();
    for (std::int64_t i = 0; i < 3 * (tiny.context + 1); ++i) {
      tokens.push_back(static_cast<std::uint8_t>(i * i % 97));
    }
  }

  /// No optimizer may go while its reductions are under way.
  ~TinyGpt() {
    if (reducing) optimizer.accumulate();
  }
  TinyGpt(const TinyGpt&) = delete;
  TinyGpt& operator=(const TinyGpt&) = delete;

  double backward(std::int64_t first, std::int64_t count, double scale) {
    reducing = true;
    return model.backward(windows(first, count), scale);
  }
  StepReport step() {
    reducing = false;
    return optimizer.step();
  }

  [[nodiscard]] TokenWindows windows(std::int64_t first, std::int64_t count) const {
    const auto window = static_cast<std::size_t>(tiny.context + 1);
    return {.tokens = std::span(tokens).subspan(static_cast<std::size_t>(first) * window,
                                                static_cast<std::size_t>(count) * window),
            .sequences = count};
  }
  [[nodiscard]] std::vector<float> gradient(const std::string& name) {
    const auto view = optimizer.gradient(name).as<float>();
    return {view.begin(), view.end()};
  }

  Runtime runtime;
  ShardedOptimizer optimizer;
  Gpt model;
  std::vector<std::uint8_t> tokens;
  bool reducing = false;
};

TEST(Gpt, AnUntrainedModelKnowsNothing) {
  const TinyGpt gpt;
  EXPECT_NEAR(gpt.model.loss(gpt.windows(0, 3)) / 3.0, std::log(256.0), 0.1);
}

TEST(Gpt, NoSequencesCostNothing) {
  TinyGpt gpt;
  EXPECT_EQ(gpt.backward(0, 0, 1.0), 0.0);
  EXPECT_EQ(gpt.model.loss(gpt.windows(0, 0)), 0.0);
}

TEST(Gpt, WeightsAreReadFromTheOptimizersBuffer) {
  TinyGpt gpt;
  const double before = gpt.model.loss(gpt.windows(0, 1));
  std::ranges::fill(gpt.optimizer.parameter("norm.weight").as<float>(), 0.0F);
  EXPECT_NE(gpt.model.loss(gpt.windows(0, 1)), before);
  // Without the last norm all logits are 0, and every byte is as likely as any other.
  EXPECT_NEAR(gpt.model.loss(gpt.windows(0, 1)), std::log(256.0), 1e-6);
}

TEST(Gpt, GradientsAreTheLosssSlope) {
  TinyGpt gpt;
  (void)gpt.backward(0, 3, 1.0);
  for (const Parameter& parameter : gpt.optimizer.parameters()) {
    const auto gradient = gpt.gradient(parameter.name);
    const auto values = gpt.optimizer.parameter(parameter.name).as<float>();
    const auto steepest =
        std::ranges::max_element(gradient, {}, [](float component) { return std::abs(component); });
    const auto i = static_cast<std::size_t>(steepest - gradient.begin());
    const float original = values[i];
    constexpr float nudge = 1e-2F;
    values[i] = original + nudge;
    const double above = gpt.model.loss(gpt.windows(0, 3));
    values[i] = original - nudge;
    const double below = gpt.model.loss(gpt.windows(0, 3));
    values[i] = original;
    const double slope = (above - below) / (2.0 * nudge);
    EXPECT_NEAR(gradient[i], slope, 0.02 * std::abs(slope) + 2e-4) << parameter.name;
  }
}

TEST(Gpt, BackwardAddsToTheOptimizersGradients) {
  TinyGpt gpt;
  (void)gpt.backward(0, 1, 2.0);
  const auto once = gpt.gradient("h.0.mlp.up.weight");
  gpt.optimizer.accumulate();
  const auto cleared = gpt.gradient("h.0.mlp.up.weight");
  EXPECT_TRUE(std::ranges::all_of(cleared, [](float component) { return component == 0.0F; }));
  (void)gpt.backward(0, 1, 1.0);
  const auto half = gpt.gradient("h.0.mlp.up.weight");
  for (std::size_t i = 0; i < once.size(); ++i) EXPECT_NEAR(once[i], 2.0F * half[i], 1e-6F);
  (void)gpt.step();
}

TEST(Gpt, EveryRanksSequencesCount) {
  // All ranks together see all sequences, one of them or none each; the step must be that of one
  // rank that saw them all.
  TinyGpt gpt;
  const int ranks = gpt.runtime.size();
  const bool mine = gpt.runtime.rank() < 3;
  double norm = 0.0;
  if (ranks >= 3) {
    (void)gpt.backward(mine ? gpt.runtime.rank() : 0, mine ? 1 : 0, ranks / 3.0);
    norm = gpt.step().gradient_norm;
  }
  TinyGpt alone;
  (void)alone.backward(0, 3, 1.0 / 3.0);
  const double expected = alone.step().gradient_norm;
  if (ranks >= 3) {
    EXPECT_NEAR(norm, expected, 1e-5 * expected);
  }
}

TEST(Gpt, LearnsItsSequencesByHeartInBothDtypes) {
  for (const DType dtype : {fp32, bf16}) {
    TinyGpt gpt(dtype, {.clip_norm = 1.0});
    double loss = 0.0;
    for (int step = 0; step < 120; ++step) {
      gpt.optimizer.zero_gradients();
      loss = gpt.backward(0, 3, 1.0 / 3.0) / 3.0;
      EXPECT_FALSE(gpt.step().skipped);
    }
    EXPECT_LT(loss, 0.5) << name_of(dtype);
  }
}

TEST(Gpt, EmbeddingAndHeadShareOneGradient) {
  TinyGpt gpt;
  (void)gpt.backward(0, 3, 1.0);
  EXPECT_EQ(gpt.optimizer.gradient("embedding.weight").data,
            gpt.optimizer.gradient("lm_head.weight").data);
  // A byte that never occurs gets a gradient from the head alone, but gets one.
  const auto gradient = gpt.gradient("embedding.weight");
  const std::size_t row = 200 * static_cast<std::size_t>(tiny.width);
  EXPECT_NE(gradient[row], 0.0F);
}

}  // namespace
}  // namespace shardmix::train
