#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "shardmix/error.hpp"
#include "support/fixture.hpp"

namespace shardmix::testing {

/// What is trained, and how it is kept.
struct TrainingCase {
  Rule rule = AdEMAMix{.lr = 1e-2, .alpha_steps = 10, .beta3_steps = 10};
  DType dtype = fp32;
  OptimizerOptions options = {.bucket_elements = 1024};
};

inline std::string describe(const TrainingCase& c) {
  return std::string(name_of(c.rule)) + " " + std::string(name_of(c.dtype)) + " master " +
         std::to_string(static_cast<int>(c.options.master)) + " state " +
         std::to_string(static_cast<int>(c.options.state));
}

/// Every rule, with each kind of rounding by chance: without master, in compact state, and both.
inline std::vector<TrainingCase> stochastic_cases() {
  std::vector<TrainingCase> all;
  std::vector<Rule> rules = all_rules();
  rules.emplace_back(AdEMAMix{.beta1 = 0.0});
  for (const Rule& rule : rules) {
    all.push_back({.rule = rule,
                   .options = {.state = StateFormat::compact, .seed = 3, .bucket_elements = 1024}});
    all.push_back(
        {.rule = rule,
         .dtype = bf16,
         .options = {
             .master = Master::none, .state = StateFormat::compact, .bucket_elements = 1024}});
  }
  for (const DType dtype : {bf16, fp16})
    all.push_back({.dtype = dtype, .options = {.master = Master::none, .bucket_elements = 1024}});
  return all;
}

/// Trains the awkward model on the ranks of `runtime`, with its gradients written by
/// `write(optimizer, step)`. Returns its parameters and the norms.
template <class Write>
auto train(Runtime& runtime, const TrainingCase& c, const Write& write) {
  constexpr std::uint32_t steps = 5;
  ShardedOptimizer optimizer(runtime, awkward_parameters(c.dtype), c.rule, c.options);
  start(optimizer, runtime.rank());
  std::vector<double> norms;
  for (std::uint32_t step = 1; step <= steps; ++step) {
    write(optimizer, step);
    norms.push_back(optimizer.step().gradient_norm);
  }
  optimizer.wait();
  return std::pair(snapshot(optimizer), norms);
}

/// The message of the ConfigError that `act` throws.
template <class Act>
std::string config_error(const Act& act) {
  try {
    act();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace shardmix::testing
