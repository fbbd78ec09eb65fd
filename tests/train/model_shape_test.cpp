#include "train/model_shape.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace shardmix::train {
namespace {

TEST(ModelShape, NanoHasAboutAMillionParameters) {
  const std::int64_t elements = declare_parameters(model_named("nano").shape, fp32).elements();
  EXPECT_GT(elements, 800'000);
  EXPECT_LT(elements, 1'100'000);
}

TEST(ModelShape, BiasesAndNormsDoNotDecay) {
  const Parameters parameters = declare_parameters(model_named("nano").shape, bf16);
  for (const Parameter& parameter : parameters) {
    const bool matrix = parameter.shape.size() == 2;
    EXPECT_EQ(parameter.group.weight_decay, matrix ? std::optional<double>() : 0.0)
        << parameter.name;
    EXPECT_EQ(parameter.dtype, bf16);
  }
}

TEST(ModelShape, TheHeadIsTheEmbedding) {
  const Parameters parameters = declare_parameters(model_named("nano").shape, fp32);
  EXPECT_EQ(parameters.index(head_name), parameters.index(embedding_name));
}

std::pair<double, double> mean_and_deviation(const std::vector<float>& values) {
  double sum = 0.0;
  double squares = 0.0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const auto count = static_cast<double>(values.size());
  return {sum / count, std::sqrt(squares / count)};
}

TEST(InitialValues, AreNormalWithGpt2Deviations) {
  const ModelShape shape = model_named("nano").shape;
  const auto tensors = model_tensors(shape);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto values = initial_values(tensors[i], i, shape.layers, 3);
    const auto [mean, deviation] = mean_and_deviation(values);
    switch (tensors[i].initial) {
      case InitialValues::zeros:
        EXPECT_EQ(deviation, 0.0) << tensors[i].name;
        break;
      case InitialValues::ones:
        EXPECT_EQ(mean, 1.0) << tensors[i].name;
        break;
      default: {
        const double expected =
            tensors[i].initial == InitialValues::normal ? 0.02 : 0.02 / std::sqrt(8.0);
        EXPECT_NEAR(mean, 0.0, 0.05 * expected) << tensors[i].name;
        EXPECT_NEAR(deviation, expected, 0.05 * expected) << tensors[i].name;
      }
    }
  }
}

TEST(InitialValues, DependOnTheSeedAndTheTensor) {
  const ModelTensor tensor{.name = "x", .shape = {3, 7}, .initial = InitialValues::normal};
  const auto values = initial_values(tensor, 0, 1, 1);
  EXPECT_EQ(values, initial_values(tensor, 0, 1, 1));
  EXPECT_NE(values, initial_values(tensor, 0, 1, 2));
  EXPECT_NE(values, initial_values(tensor, 1, 1, 1));
  EXPECT_EQ(std::set<float>(values.begin(), values.end()).size(), values.size());
}

}  // namespace
}  // namespace shardmix::train
