#include "train/model_shape.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <utility>

#include "shardmix/error.hpp"

namespace shardmix::train {
namespace {

constexpr std::array models{
    NamedModel{.name = "nano",
               .shape = {.width = 128, .heads = 4, .layers = 4, .context = 128},
               .lr = 3e-3,
               .clip = 1.0,
               .alpha = 8.0},
    NamedModel{.name = "110m",
               .shape = {.width = 768, .heads = 12, .layers = 12, .context = 1024},
               .lr = 1e-3,
               .clip = 0.5,
               .alpha = 8.0},
    NamedModel{.name = "330m",
               .shape = {.width = 1024, .heads = 16, .layers = 24, .context = 1024},
               .lr = 5e-4,
               .clip = 0.1,
               .alpha = 8.0},
    NamedModel{.name = "1.3b",
               .shape = {.width = 2048, .heads = 16, .layers = 24, .context = 1024},
               .lr = 3e-4,
               .clip = 0.1,
               .alpha = 5.0},
};

/// Collects a model's tensors under names with a common prefix.
struct TensorList {
  std::vector<ModelTensor> tensors;

  void add(std::string name, std::vector<std::int64_t> shape, InitialValues initial) {
    tensors.push_back({.name = std::move(name), .shape = std::move(shape), .initial = initial});
  }
  void norm(const std::string& name, std::int64_t width) {
    add(name + ".weight", {width}, InitialValues::ones);
    add(name + ".bias", {width}, InitialValues::zeros);
  }
  void linear(const std::string& name, std::int64_t out, std::int64_t in, InitialValues initial) {
    add(name + ".weight", {out, in}, initial);
    add(name + ".bias", {out}, InitialValues::zeros);
  }
};

bool decays(InitialValues initial) {
  return initial == InitialValues::normal || initial == InitialValues::residual_normal;
}

}  // namespace

std::span<const NamedModel> named_models() noexcept {
  return models;
}

const NamedModel& model_named(std::string_view name) {
  std::vector<std::string_view> names;
  for (const NamedModel& model : models) {
    if (model.name == name) return model;
    names.push_back(model.name);
  }
  throw ConfigError(
      fmt::format("--model is '{}', but must be one of {}", name, fmt::join(names, ", ")));
}

void validate(const ModelShape& shape) {
  for (const auto& [option, value] :
       {std::pair{"--width", shape.width}, std::pair{"--heads", shape.heads},
        std::pair{"--layers", shape.layers}, std::pair{"--context", shape.context}}) {
    if (value < 1)
      throw ConfigError(fmt::format("{} must be at least 1, but is {}", option, value));
  }
  if (shape.width % shape.heads != 0) {
    throw ConfigError(
        fmt::format("--width ({}) must be a multiple of --heads ({})", shape.width, shape.heads));
  }
}

std::vector<ModelTensor> model_tensors(const ModelShape& shape) {
  const std::int64_t width = shape.width;
  TensorList list;
  list.add(std::string(embedding_name), {ModelShape::vocabulary, width}, InitialValues::normal);
  list.add("position.weight", {shape.context, width}, InitialValues::normal);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string block = fmt::format("h.{}.", layer);
    list.norm(block + "attn.norm", width);
    list.linear(block + "attn.qkv", 3 * width, width, InitialValues::normal);
    list.linear(block + "attn.proj", width, width, InitialValues::residual_normal);
    list.norm(block + "mlp.norm", width);
    list.linear(block + "mlp.up", 4 * width, width, InitialValues::normal);
    list.linear(block + "mlp.down", width, 4 * width, InitialValues::residual_normal);
  }
  list.norm("norm", width);
  return std::move(list.tensors);
}

Parameters declare_parameters(const ModelShape& shape, DType dtype) {
  Parameters parameters;
  for (ModelTensor& tensor : model_tensors(shape)) {
    Group group;
    if (!decays(tensor.initial)) group.weight_decay = 0.0;
    parameters.add(std::move(tensor.name), std::move(tensor.shape), dtype, group);
  }
  parameters.tie(std::string(head_name), embedding_name);
  return parameters;
}

}  // namespace shardmix::train
