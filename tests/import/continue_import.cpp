// Goes on from an imported checkpoint with gradients that are given, and saves what it comes to:
//   continue_import RUN REPORT GRADIENTS STEPS OUT
// REPORT is what `shardmix import --json` printed: parameters, and each group's hyper-parameters.
// GRADIENTS are fp32, for each step those of all trainable parameters in the report's order.

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "checkpoint/rule_json.hpp"
#include "shardmix/shardmix.hpp"
#include "support/fixture.hpp"

namespace {

using Json = nlohmann::json;
using namespace shardmix;

/// What a group has in place of the first one's.
Group group_of(const Json& parameter, const std::vector<Json>& groups) {
  Group group{.trainable = parameter.at("trainable")};
  const Json& own = groups.at(parameter.at("group"));
  for (const auto& [name, value] : own.items()) {
    if (value == groups.front().at(name)) continue;
    if (name == "lr")
      group.lr_scale =
          value.at("peak").get<double>() / groups.front().at("lr").at("peak").get<double>();
    else
      group.hyper_parameters[name] = value;
  }
  return group;
}

}  // namespace

int main(int argc, char** argv) {
  Runtime runtime(argc, argv);
  std::ifstream report_file(argv[2]);
  const Json report = Json::parse(report_file);
  const std::vector<Json> groups = report.at("groups");
  Parameters parameters;
  for (const Json& p : report.at("parameters")) {
    parameters.add(p.at("name"), p.at("shape"), dtype_named(p.at("dtype").get<std::string>()),
                   group_of(p, groups));
  }
  ShardedOptimizer optimizer(
      runtime, parameters,
      checkpoint::rule_from(report.at("rule").get<std::string>(), groups.front()));
  Checkpoints(runtime, argv[1]).resume(optimizer);
  std::ifstream gradients(argv[3], std::ios::binary);
  for (int step = 0; step < std::atoi(argv[4]); ++step) {
    for (const Parameter& p : optimizer.parameters()) {
      if (!p.group.trainable) continue;
      const TensorView view = optimizer.gradient(p.name);
      for (std::int64_t i = 0; i < view.elements; ++i) {
        float value = 0;
        gradients.read(reinterpret_cast<char*>(&value), sizeof(value));
        shardmix::testing::set_value(view, i, value);
      }
    }
    if (!gradients) return 3;
    optimizer.step();
  }
  Checkpoints(runtime, argv[5]).save(optimizer);
  return 0;
}
