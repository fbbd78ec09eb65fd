#pragma once

/// The reference model's extents and tensors: a decoder-only GPT on bytes. Arithmetic alone, no
/// LibTorch.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shardmix/parameters.hpp"

namespace shardmix::train {

struct ModelShape {
  /// One token a byte value.
  static constexpr std::int64_t vocabulary = 256;

  std::int64_t width = 128;    ///< of the residual stream, a multiple of `heads`
  std::int64_t heads = 4;      ///< attention heads of a layer
  std::int64_t layers = 4;     ///< transformer blocks
  std::int64_t context = 128;  ///< tokens of a sequence

  bool operator==(const ModelShape&) const = default;
};

/// Throws ConfigError, naming the option, for an extent below 1 or heads that don't divide the
/// width.
void validate(const ModelShape& shape);

/// A size with a name, and the hyper-parameters that suit it. Those of 110m and above are the
/// AdEMAMix paper's (arXiv 2409.03137, appendix B).
struct NamedModel {
  std::string_view name;
  ModelShape shape;
  double lr = 0.0;
  double clip = 0.0;
  double alpha = 0.0;
};

[[nodiscard]] std::span<const NamedModel> named_models() noexcept;

/// Throws ConfigError, listing the names there are, for another one.
[[nodiscard]] const NamedModel& model_named(std::string_view name);

/// How a tensor starts: GPT-2's scheme, in which the projections that write to the residual stream
/// are scaled down by the root of their number.
enum class InitialValues : std::uint8_t { zeros, ones, normal, residual_normal };

struct ModelTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  InitialValues initial = InitialValues::zeros;
};

/// All tensors in the order of the forward pass. The output head is the embedding's second name.
[[nodiscard]] std::vector<ModelTensor> model_tensors(const ModelShape& shape);

inline constexpr std::string_view embedding_name = "embedding.weight";
inline constexpr std::string_view head_name = "lm_head.weight";

/// The model's tensors as parameters of `dtype`; biases and norms without weight decay.
[[nodiscard]] Parameters declare_parameters(const ModelShape& shape, DType dtype);

/// The values that tensor number `index` of model_tensors() starts with: a pure function of its
/// arguments.
[[nodiscard]] std::vector<float> initial_values(const ModelTensor& tensor, std::size_t index,
                                                std::int64_t layers, std::uint64_t seed);

}  // namespace shardmix::train
