#include <array>
#include <cmath>
#include <numbers>

#include "math/philox.hpp"
#include "train/model_shape.hpp"
#include "train/random_streams.hpp"

namespace shardmix::train {
namespace {

/// Four independent standard normal numbers (Box and Muller, 1958).
std::array<float, 4> four_normals(const math::Philox& bits) {
  std::array<float, 4> normals{};
  for (std::size_t pair = 0; pair < 4; pair += 2) {
    // In (0, 1]: the logarithm of 0 has no value.
    const double radius_uniform = (static_cast<double>(bits[pair]) + 1.0) * 0x1p-32;
    const double angle = 2.0 * std::numbers::pi * static_cast<double>(bits[pair + 1]) * 0x1p-32;
    const double radius = std::sqrt(-2.0 * std::log(radius_uniform));
    normals[pair] = static_cast<float>(radius * std::cos(angle));
    normals[pair + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return normals;
}

void fill_normal(std::vector<float>& values, float deviation, std::size_t tensor_index,
                 std::uint64_t seed) {
  for (std::size_t i = 0; i < values.size(); i += 4) {
    const RandomPlace place{.stream = RandomStream::initial_values,
                            .number = i / 4,
                            .item = static_cast<std::uint32_t>(tensor_index)};
    const auto normals = four_normals(random_words(seed, place));
    for (std::size_t lane = 0; lane < 4 && i + lane < values.size(); ++lane) {
      values[i + lane] = deviation * normals[lane];
    }
  }
}

}  // namespace

std::vector<float> initial_values(const ModelTensor& tensor, std::size_t index, std::int64_t layers,
                                  std::uint64_t seed) {
  constexpr float deviation = 0.02F;
  std::size_t elements = 1;
  for (const std::int64_t extent : tensor.shape) elements *= static_cast<std::size_t>(extent);
  std::vector<float> values(elements, tensor.initial == InitialValues::ones ? 1.0F : 0.0F);
  if (tensor.initial == InitialValues::normal) {
    fill_normal(values, deviation, index, seed);
  } else if (tensor.initial == InitialValues::residual_normal) {
    // Each layer adds to the residual stream twice.
    const float residual_additions = 2.0F * static_cast<float>(layers);
    fill_normal(values, deviation / std::sqrt(residual_additions), index, seed);
  }
  return values;
}

}  // namespace shardmix::train
