#include "bench/precisions.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "shardmix/error.hpp"

namespace shardmix::bench {

using device::StateStorage;
using device::WeightStorage;

const std::vector<Precision>& all_precisions() {
  static const std::vector<Precision> precisions{
      Precision{"fp32", "parameters and state in fp32", fp32, WeightStorage::parameter,
                StateStorage::full},
      Precision{"bf16", "bf16 parameters, 16 more bits as master, fp32 state", bf16,
                WeightStorage::remainder, StateStorage::full},
      Precision{"bf16-full", "bf16 parameters, fp32 master and state", bf16, WeightStorage::master,
                StateStorage::full},
      Precision{"bf16-stochastic", "bf16 parameters without master, fp32 state", bf16,
                WeightStorage::parameter, StateStorage::full},
      Precision{"fp16", "fp16 parameters, fp32 master and state", fp16, WeightStorage::master,
                StateStorage::full},
      Precision{"fp16-stochastic", "fp16 parameters without master, fp32 state", fp16,
                WeightStorage::parameter, StateStorage::full},
      Precision{"fp32-compact", "fp32 parameters, compact state", fp32, WeightStorage::parameter,
                StateStorage::compact},
      Precision{"bf16-compact", "bf16 parameters, 16 more bits as master, compact state", bf16,
                WeightStorage::remainder, StateStorage::compact},
      Precision{"bf16-compact-stochastic", "bf16 parameters without master, compact state", bf16,
                WeightStorage::parameter, StateStorage::compact},
  };
  return precisions;
}

std::vector<Precision> precisions_named(const std::vector<std::string>& names) {
  if (names.empty()) return all_precisions();
  std::vector<Precision> chosen;
  for (const std::string& name : names) {
    const auto found = std::ranges::find(all_precisions(), name, &Precision::name);
    if (found == all_precisions().end()) {
      std::vector<std::string_view> known;
      for (const Precision& p : all_precisions()) known.push_back(p.name);
      throw ConfigError(fmt::format("there is no precision '{}'; expected one of {}", name,
                                    fmt::join(known, ", ")));
    }
    chosen.push_back(*found);
  }
  return chosen;
}

std::vector<Rule> rules_named(const std::vector<std::string>& names) {
  if (names.empty()) return all_rules();
  std::vector<Rule> rules;
  for (const std::string& name : names) rules.push_back(rule_named(name));
  return rules;
}

}  // namespace shardmix::bench
