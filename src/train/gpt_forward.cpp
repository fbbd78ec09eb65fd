#include "train/gpt_forward.hpp"

#include <cmath>
#include <cstddef>
#include <limits>

// No fmt here, as in gpt.cpp.

namespace shardmix::train {
namespace {

/// Hands out a model's tensors in the order in which they were declared: that of the forward pass.
class TensorReader {
 public:
  explicit TensorReader(const std::vector<at::Tensor>& tensors) : tensors_(tensors) {}
  const at::Tensor& next() { return tensors_[next_++]; }

 private:
  const std::vector<at::Tensor>& tensors_;
  std::size_t next_ = 0;
};

/// In fp32 whatever the model's dtype: the variance of a 16-bit row would lose most of its digits.
at::Tensor layer_norm(const at::Tensor& x, TensorReader& tensors) {
  const at::Tensor weight = tensors.next().to(at::kFloat);
  const at::Tensor bias = tensors.next().to(at::kFloat);
  return at::layer_norm(x.to(at::kFloat), weight.sizes(), weight, bias).to(x.scalar_type());
}

at::Tensor linear(const at::Tensor& x, TensorReader& tensors) {
  const at::Tensor& weight = tensors.next();
  const at::Tensor& bias = tensors.next();
  return at::linear(x, weight, bias);
}

/// `x`: sequences x tokens x width. Spelled out, not fused: the same order of sums on every run.
at::Tensor attention(const at::Tensor& x, std::int64_t heads, const at::Tensor& mask,
                     TensorReader& tensors) {
  const std::int64_t sequences = x.size(0);
  const std::int64_t tokens = x.size(1);
  const std::int64_t head_width = x.size(2) / heads;
  const at::Tensor qkv = linear(x, tensors)
                             .view({sequences, tokens, 3, heads, head_width})
                             .permute({2, 0, 3, 1, 4})
                             .reshape({3, sequences * heads, tokens, head_width});
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));
  const at::Tensor scores = at::baddbmm(mask, qkv[0], qkv[1].transpose(1, 2), 1.0, scale);
  const at::Tensor weights = at::softmax(scores, -1, at::kFloat).to(x.scalar_type());
  const at::Tensor mixed = at::bmm(weights, qkv[2])
                               .view({sequences, heads, tokens, head_width})
                               .transpose(1, 2)
                               .reshape({sequences, tokens, heads * head_width});
  return linear(mixed, tensors);
}

at::Tensor mlp(const at::Tensor& x, TensorReader& tensors) {
  const at::Tensor hidden = at::gelu(linear(x, tensors), "tanh");
  return linear(hidden, tensors);
}

}  // namespace

GptConstants gpt_constants(const ModelShape& shape, const at::TensorOptions& like) {
  const at::TensorOptions options = like.requires_grad(false);
  constexpr double masked = -std::numeric_limits<double>::infinity();
  return {.causal_mask = at::full({shape.context, shape.context}, masked, options).triu(1),
          .positions = at::arange(shape.context, options.dtype(at::kLong))};
}

at::Tensor gpt_logits(const ModelShape& shape, const std::vector<at::Tensor>& tensors,
                      const GptConstants& constants, const at::Tensor& tokens) {
  TensorReader reader(tensors);
  const at::Tensor& embedding = reader.next();
  at::Tensor x =
      at::embedding(embedding, tokens) + at::embedding(reader.next(), constants.positions);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    x = x + attention(layer_norm(x, reader), shape.heads, constants.causal_mask, reader);
    x = x + mlp(layer_norm(x, reader), reader);
  }
  return at::linear(layer_norm(x, reader), embedding).to(at::kFloat);
}

}  // namespace shardmix::train
