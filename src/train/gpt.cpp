#include "train/gpt.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <string>
#include <utility>
#include <vector>

#include "shardmix/error.hpp"
#include "train/gpt_forward.hpp"

// No fmt here: some LibTorch packages carry headers of another version of it than the one that is
// linked.

namespace shardmix::train {
namespace {

using torch::autograd::variable_list;

at::ScalarType scalar_type(DType dtype) {
  return dtype == DType::fp32 ? at::kFloat : dtype == DType::bf16 ? at::kBFloat16 : at::kHalf;
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

/// A function of whatever BLAS the program is linked with; null where it has none of this name.
template <class Function>
Function* find_function(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_DEFAULT, name));
}

void set_threads(int threads) {
  auto* set_blas_threads = find_function<void(int)>("openblas_set_num_threads");
  auto* blas_parallel = find_function<int()>("openblas_get_parallel");
  if (set_blas_threads != nullptr) set_blas_threads(threads);
  // An OpenBLAS with a pool of its own threads (1: neither sequential nor OpenMP's) would share the
  // cores with OpenMP's, which spin while they wait: two threads were then slower than one. The
  // matrix products are most of the time, so the threads go to them alone.
  const bool own_pool =
      set_blas_threads != nullptr && blas_parallel != nullptr && blas_parallel() == 1;
  at::set_num_threads(own_pool ? 1 : threads);
}

void require_device(DeviceKind device) {
  if (device == DeviceKind::cuda && !at::hasCUDA()) {
    throw ConfigError(
        "this LibTorch has no CUDA, so the trainer can't run with --device cuda; use --device "
        "host, or build with a LibTorch that has CUDA (a pip torch, through CMAKE_PREFIX_PATH)");
  }
}

/// LibTorch's own message, without its stack trace.
template <class Function>
auto with_local_errors(Function&& function) {
  try {
    return function();
  } catch (const c10::Error& error) {
    throw LocalError(std::string("LibTorch: ") + error.what_without_backtrace());
  }
}

}  // namespace

struct Gpt::Impl {
  ModelShape shape;
  at::DeviceType device = at::kCPU;
  std::vector<ModelTensor> tensors;
  std::vector<Leaf> leaves{};
  std::vector<at::Tensor> values{};  ///< of the leaves
  GptConstants constants{};
  bool checked_gradients = false;

  [[nodiscard]] at::Tensor summed_loss(const TokenWindows& windows) const;
  void require_gradients_in_place() const;
};

at::Tensor Gpt::Impl::summed_loss(const TokenWindows& windows) const {
  // from_blob takes no pointer to const, but nothing here writes to it.
  const at::Tensor tokens =
      at::from_blob(const_cast<std::uint8_t*>(windows.tokens.data()),
                    {windows.sequences, shape.context + 1}, at::TensorOptions().dtype(at::kByte))
          .to(at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor logits =
      gpt_logits(shape, values, constants, tokens.narrow(1, 0, shape.context));
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
      throw LocalError(
          "the gradient of '" + leaf.name +
          "' is no longer in the optimizer's buffer: this LibTorch replaces gradients instead of "
          "adding to them in place, and can't be used");
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
    for (const Leaf& leaf : impl_->leaves) impl_->values.push_back(leaf.value);
    impl_->constants = gpt_constants(shape, impl_->values.front().options());
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
