#pragma once

/// The names of what is measured.

#include <string>
#include <string_view>
#include <vector>

#include "device/device.hpp"
#include "shardmix/dtype.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::bench {

/// How parameters, gradients and state are held.
struct Precision {
  std::string_view name;
  std::string_view meaning;
  DType dtype;
  device::WeightStorage weights;
  device::StateStorage state;
};

[[nodiscard]] const std::vector<Precision>& all_precisions();

/// Those with these names; all where there are none. Throws ConfigError for another name.
[[nodiscard]] std::vector<Precision> precisions_named(const std::vector<std::string>& names);
[[nodiscard]] std::vector<Rule> rules_named(const std::vector<std::string>& names);

}  // namespace shardmix::bench
