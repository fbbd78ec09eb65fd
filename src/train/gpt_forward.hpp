#pragma once

/// The model's forward pass in LibTorch's terms. Only gpt.cpp includes this header.

#include <ATen/ATen.h>

#include <vector>

#include "train/model_shape.hpp"

namespace shardmix::train {

/// What every forward pass uses and no training changes.
struct GptConstants {
  at::Tensor causal_mask;  ///< context x context: 0 where a position may look, else -infinity
  at::Tensor positions;    ///< 0 ... context - 1
};

/// `like`: the dtype and device of the model's tensors.
[[nodiscard]] GptConstants gpt_constants(const ModelShape& shape, const at::TensorOptions& like);

/// Logits of the next token, sequences x context x vocabulary, in fp32. `tensors` are those of
/// model_tensors(), in its order; `tokens` is sequences x context.
[[nodiscard]] at::Tensor gpt_logits(const ModelShape& shape, const std::vector<at::Tensor>& tensors,
                                    const GptConstants& constants, const at::Tensor& tokens);

}  // namespace shardmix::train
