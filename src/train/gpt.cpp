#include "train/gpt.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "shardmix/error.hpp"

namespace shardmix::train {
namespace {

using torch::autograd::variable_list;

at::ScalarType scalar_type(DType dtype) {
  return dtype == DType::fp32 ? at::kFloat : at::kBFloat16;
}

at::Tensor tensor_of(const TensorView& view, at::DeviceType device) {
  return at::from_blob(view.data, view.shape,
                       at::TensorOptions().dtype(scalar_type(view.dtype)).device(device));
}

/// Calls back when autograd has finished a parameter's gradient.
class MarkReady final : public torch::autograd::FunctionPostHook {
 public:
  MarkReady(ShardedOptimizer& optimizer, std::vector<std::string> names)
      : optimizer_(optimizer), names_(std::move(names)) {}

  variable_list operator()(const variable_list& outputs, const variable_list& /*inputs*/) override {
    for (const std::string& name : names_) optimizer_.mark_ready(name);
    return outputs;
  }

 private:
  ShardedOptimizer& optimizer_;
  std::vector<std::string> names_;
};

/// A shared pointer, of another kind in newer LibTorch.
using Accumulator =
    decltype(torch::autograd::impl::grad_accumulator(std::declval<const at::Tensor&>()));

/// One parameter as autograd sees it.
struct Leaf {
  std::string name;
  at::Tensor value;
  at::Tensor gradient;
  Accumulator accumulator{};  ///< its hook lives as long as this
};

Leaf make_leaf(ShardedOptimizer& optimizer, const Parameter& parameter, at::DeviceType device) {
  Leaf leaf{.name = parameter.name,
            .value = tensor_of(optimizer.parameter(parameter.name), device),
            .gradient = tensor_of(optimizer.gradient(parameter.name), device)};
  leaf.value.set_requires_grad(true);
  leaf.value.mutable_grad() = leaf.gradient;
  return leaf;
}

/// On a GPU autograd calls hooks from a thread of its own, ahead of the kernels; there step()
/// reduces all gradients once backward has ended.
void mark_when_accumulated(Leaf& leaf, const Parameter& parameter, ShardedOptimizer& optimizer) {
  std::vector<std::string> names{parameter.name};
  names.insert(names.end(), parameter.aliases.begin(), parameter.aliases.end());
  leaf.accumulator = torch::autograd::impl::grad_accumulator(leaf.value);
  leaf.accumulator->add_post_hook(std::make_unique<MarkReady>(optimizer, std::move(names)));
}

void set_threads(int threads) {
  at::set_num_threads(threads);
  // OpenBLAS built on its own threads doesn't listen to LibTorch, and would give each rank every
  // core.
  if (void* set_blas_threads = ::dlsym(RTLD_DEFAULT, "openblas_set_num_threads")) {
    reinterpret_cast<void (*)(int)>(set_blas_threads)(threads);
  }
}

void require_device(DeviceKind device) {
  if (device == DeviceKind::cuda && !at::hasCUDA()) {
    throw ConfigError(
        "this LibTorch has no CUDA, so the trainer can't run with --device cuda; use --device "
        "host, or "
        "build with a LibTorch that has CUDA (a pip torch, through CMAKE_PREFIX_PATH)");
  }
}

/// LibTorch's own message, without its stack trace.
template <class Function>
auto with_local_errors(Function&& function) {
  try {
    return function();
  } catch (const c10::Error& error) {
    throw LocalError(fmt::format("LibTorch: {}", error.what_without_backtrace()));
  }
}

}  // namespace

struct Gpt::Impl {
  ModelShape shape;
  at::DeviceType device = at::kCPU;
  std::vector<ModelTensor> tensors;
  std::vector<Leaf> leaves{};
  at::Tensor causal_mask{};  ///< context x context: 0 where a position may look, else -infinity
  at::Tensor positions{};    ///< 0 ... context - 1
  bool checked_gradients = false;

  [[nodiscard]] at::Tensor forward(const at::Tensor& tokens) const;
  [[nodiscard]] at::Tensor summed_loss(const TokenWindows& windows) const;
  void require_gradients_in_place() const;
};

namespace {

/// Hands out a model's tensors in the order in which they were declared: that of the forward pass.
class LeafReader {
 public:
  explicit LeafReader(const std::vector<Leaf>& leaves) : leaves_(leaves) {}
  const at::Tensor& next() { return leaves_[next_++].value; }

 private:
  const std::vector<Leaf>& leaves_;
  std::size_t next_ = 0;
};

/// In fp32 whatever the model's dtype: the variance of a bf16 row would lose most of its digits.
at::Tensor layer_norm(const at::Tensor& x, LeafReader& leaves) {
  const at::Tensor weight = leaves.next().to(at::kFloat);
  const at::Tensor bias = leaves.next().to(at::kFloat);
  return at::layer_norm(x.to(at::kFloat), weight.sizes(), weight, bias).to(x.scalar_type());
}

at::Tensor linear(const at::Tensor& x, LeafReader& leaves) {
  const at::Tensor& weight = leaves.next();
  const at::Tensor& bias = leaves.next();
  return at::linear(x, weight, bias);
}

/// `x`: sequences x tokens x width. Spelled out, not fused: the same order of sums on every run.
at::Tensor attention(const at::Tensor& x, std::int64_t heads, const at::Tensor& mask,
                     LeafReader& leaves) {
  const std::int64_t sequences = x.size(0);
  const std::int64_t tokens = x.size(1);
  const std::int64_t head_width = x.size(2) / heads;
  const at::Tensor qkv = linear(x, leaves)
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
  return linear(mixed, leaves);
}

at::Tensor mlp(const at::Tensor& x, LeafReader& leaves) {
  const at::Tensor hidden = at::gelu(linear(x, leaves), "tanh");
  return linear(hidden, leaves);
}

}  // namespace

/// Logits of the next token: sequences x context x vocabulary, in fp32.
at::Tensor Gpt::Impl::forward(const at::Tensor& tokens) const {
  LeafReader reader(leaves);
  const at::Tensor& embedding = reader.next();
  at::Tensor x = at::embedding(embedding, tokens) + at::embedding(reader.next(), positions);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    x = x + attention(layer_norm(x, reader), shape.heads, causal_mask, reader);
    x = x + mlp(layer_norm(x, reader), reader);
  }
  return at::linear(layer_norm(x, reader), embedding).to(at::kFloat);
}

at::Tensor Gpt::Impl::summed_loss(const TokenWindows& windows) const {
  // from_blob takes no pointer to const, but nothing here writes to it.
  const at::Tensor tokens =
      at::from_blob(const_cast<std::uint8_t*>(windows.tokens.data()),
                    {windows.sequences, shape.context + 1}, at::TensorOptions().dtype(at::kByte))
          .to(at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor logits = forward(tokens.narrow(1, 0, shape.context));
  const at::Tensor targets = tokens.narrow(1, 1, shape.context).reshape({-1});
  const at::Tensor total =
      at::cross_entropy_loss(logits.view({-1, ModelShape::vocabulary}), targets,
                             /*weight=*/{}, at::Reduction::Sum);
  return total / static_cast<double>(shape.context);
}

/// Autograd may replace a gradient instead of adding to it; the optimizer would then never see it.
void Gpt::Impl::require_gradients_in_place() const {
  for (const Leaf& leaf : leaves) {
    if (leaf.value.grad().data_ptr() != leaf.gradient.data_ptr()) {
      throw LocalError(fmt::format(
          "the gradient of '{}' is no longer in the optimizer's buffer: this LibTorch replaces "
          "gradients instead of adding to them in place, and can't be used",
          leaf.name));
    }
  }
}

Gpt::Gpt(const ModelShape& shape, ShardedOptimizer& optimizer, DeviceKind device, int threads) {
  require_device(device);
  set_threads(threads);
  const at::DeviceType kind = device == DeviceKind::cuda ? at::kCUDA : at::kCPU;
  impl_ =
      std::make_unique<Impl>(Impl{.shape = shape, .device = kind, .tensors = model_tensors(shape)});
  with_local_errors([&] {
    for (const Parameter& parameter : optimizer.parameters()) {
      Leaf& leaf = impl_->leaves.emplace_back(make_leaf(optimizer, parameter, kind));
      if (device == DeviceKind::host) mark_when_accumulated(leaf, parameter, optimizer);
    }
    const at::Tensor& any = impl_->leaves.front().value;
    const auto square = {shape.context, shape.context};
    impl_->causal_mask = at::full(square, -std::numeric_limits<double>::infinity(),
                                  any.options().requires_grad(false))
                             .triu(1);
    impl_->positions =
        at::arange(shape.context, any.options().dtype(at::kLong).requires_grad(false));
  });
}

Gpt::~Gpt() = default;

void Gpt::write_initial_values(std::uint64_t seed) {
  with_local_errors([&] {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < impl_->leaves.size(); ++i) {
      const ModelTensor& tensor = impl_->tensors[i];
      std::vector<float> values = initial_values(tensor, i, impl_->shape.layers, seed);
      at::Tensor leaf = impl_->leaves[i].value;
      leaf.copy_(at::from_blob(values.data(), tensor.shape, at::TensorOptions().dtype(at::kFloat)));
    }
  });
}

double Gpt::backward(const TokenWindows& windows, double scale) {
  if (windows.sequences == 0) return 0.0;
  return with_local_errors([&] {
    const at::Tensor loss = impl_->summed_loss(windows);
    (loss * scale).backward();
    if (!std::exchange(impl_->checked_gradients, true)) impl_->require_gradients_in_place();
    return loss.item<double>();
  });
}

double Gpt::loss(const TokenWindows& windows) const {
  if (windows.sequences == 0) return 0.0;
  return with_local_errors([&] {
    const at::NoGradGuard no_grad;
    return impl_->summed_loss(windows).item<double>();
  });
}

}  // namespace shardmix::train
