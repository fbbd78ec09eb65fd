#include "shardmix/parameters.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "layout/utf8.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace {

void require_utf8(const std::string& name) {
  if (layout::is_utf8(name)) return;
  throw ConfigError(
      fmt::format("the name '{}' of a parameter isn't UTF-8", layout::in_ascii(name)));
}

/// elements() multiplies in order, whatever extent of 0 comes later.
bool has_too_many(const std::vector<std::int64_t>& shape) {
  std::int64_t product = 1;
  return std::ranges::any_of(shape, [&](std::int64_t extent) {
    return extent > 0 && __builtin_mul_overflow(product, extent, &product);
  });
}

void require_sound(const std::string& name, const std::vector<std::int64_t>& shape,
                   const Group& group) {
  if (name.empty()) throw ConfigError("a parameter was added without a name");
  require_utf8(name);
  if (std::ranges::any_of(shape, [](std::int64_t extent) { return extent < 0; })) {
    throw ConfigError(fmt::format("parameter '{}' has the shape ({}): an extent can't be negative",
                                  name, fmt::join(shape, ", ")));
  }
  if (has_too_many(shape)) {
    throw ConfigError(fmt::format("parameter '{}' has the shape ({}): more than 2^63 elements",
                                  name, fmt::join(shape, ", ")));
  }
  if (!(std::isfinite(group.lr_scale) && group.lr_scale >= 0.0)) {
    throw ConfigError(fmt::format(
        "parameter '{}': lr_scale must be at least 0 and finite, but is {}", name, group.lr_scale));
  }
  if (group.weight_decay && !(std::isfinite(*group.weight_decay) && *group.weight_decay >= 0.0)) {
    throw ConfigError(
        fmt::format("parameter '{}': weight_decay must be at least 0 and finite, but is {}", name,
                    *group.weight_decay));
  }
}

}  // namespace

std::int64_t Parameter::elements() const noexcept {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

void Parameters::add(std::string name, std::vector<std::int64_t> shape, DType dtype,
                     const Group& group) {
  require_sound(name, shape, group);
  if (find(name))
    throw ConfigError(
        fmt::format("parameter '{}' was added twice; use tie() for shared weights", name));
  positions_.emplace(name, parameters_.size());
  parameters_.push_back({.name = std::move(name),
                         .shape = std::move(shape),
                         .dtype = dtype,
                         .group = group,
                         .aliases = {}});
}

void Parameters::tie(std::string alias, std::string_view name) {
  const std::size_t i = index(name);
  require_utf8(alias);
  if (alias.empty() || find(alias)) {
    throw ConfigError(
        fmt::format("'{}' can't become a second name of '{}': it is empty or taken", alias, name));
  }
  positions_.emplace(alias, i);
  parameters_[i].aliases.push_back(std::move(alias));
}

std::optional<std::size_t> Parameters::find(std::string_view name) const noexcept {
  const auto found = positions_.find(name);
  if (found != positions_.end()) return found->second;
  return std::nullopt;
}

std::size_t Parameters::index(std::string_view name) const {
  if (const auto i = find(name)) return *i;
  throw ConfigError(fmt::format("there is no parameter '{}' among the {} that were added", name,
                                parameters_.size()));
}

std::int64_t Parameters::elements() const noexcept {
  std::int64_t sum = 0;
  for (const Parameter& p : parameters_) sum += p.elements();
  return sum;
}

}  // namespace shardmix
