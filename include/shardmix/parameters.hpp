#pragma once

/// The list of a model's parameters: what a trainer declares before anything is allocated.
///
/// A parameter is a named tensor. The order of declaration should be the order of the forward pass:
/// updated parameters are gathered in this order, and gradients are expected in the reverse. All
/// ranks must declare the same list; ShardedOptimizer checks it.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shardmix/dtype.hpp"

namespace shardmix {

/// Hyper-parameters that a set of parameters shares. Parameters with equal groups form one group.
struct Group {
  double lr_scale = 1.0;  ///< factor on the rule's lr, >= 0
  /// In place of the rule's, >= 0; 0 for biases and norms, as usual.
  std::optional<double> weight_decay = std::nullopt;
  bool trainable = true;  ///< false: frozen; stored and checkpointed, without gradient or state
  /// In place of the rule's of these names: {{"beta2", 0.95}}. The optimizer checks them.
  std::map<std::string, double> hyper_parameters = {};

  bool operator==(const Group&) const = default;
};

/// One declared tensor.
struct Parameter {
  std::string name = {};
  std::vector<std::int64_t> shape = {};  ///< empty: a scalar; a 0 anywhere: no elements
  DType dtype = DType::fp32;             ///< of the parameter and of its gradient
  Group group = {};
  std::vector<std::string> aliases = {};  ///< further names of the same memory (tied weights)

  /// The product of the shape.
  [[nodiscard]] std::int64_t elements() const noexcept;
};

class Parameters {
 public:
  /// Declares a tensor. Throws ConfigError for a name that is empty, repeated or not UTF-8, a
  /// negative extent, more than 2^63 elements or a bad group.
  void add(std::string name, std::vector<std::int64_t> shape, DType dtype, const Group& group = {});

  /// Declares `alias` as a second name of the parameter `name`. Throws ConfigError where `name` is
  /// unknown, or `alias` is taken or not UTF-8. A tied parameter is ready when each of its names
  /// was marked ready.
  void tie(std::string alias, std::string_view name);

  /// The position of the parameter with this name or alias. Throws ConfigError if there is none.
  [[nodiscard]] std::size_t index(std::string_view name) const;
  [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const noexcept;

  [[nodiscard]] std::size_t size() const noexcept { return parameters_.size(); }
  [[nodiscard]] const Parameter& operator[](std::size_t i) const noexcept { return parameters_[i]; }
  [[nodiscard]] auto begin() const noexcept { return parameters_.begin(); }
  [[nodiscard]] auto end() const noexcept { return parameters_.end(); }

  /// Elements of all parameters, tied ones once.
  [[nodiscard]] std::int64_t elements() const noexcept;

 private:
  std::vector<Parameter> parameters_;
  std::map<std::string, std::size_t, std::less<>> positions_;  ///< of names and aliases
};

}  // namespace shardmix
