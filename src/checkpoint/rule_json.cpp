#include "checkpoint/rule_json.hpp"

#include "math/update_rules.hpp"

#include <string>

namespace shardmix::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Schedule& lr) {
  const ShapeInfo& shape = info_of(lr.shape);
  Json json{{"shape", shape.name}, {"peak", lr.peak}, {"warmup", lr.warmup}};
  if (lr.steps > 0) json["steps"] = lr.steps;
  if (shape.has_end) json["final"] = lr.final;
  if (shape.has_decay) json["decay"] = lr.decay;
  return json;
}

}  // namespace

Json json_of(const Rule& rule) {
  Json json{{"lr", json_of(lr_of(rule))}};
  math::for_each_hyper_parameter(
      rule, [&](std::string_view name, auto value) { json[std::string(name)] = value; });
  return json;
}

}  // namespace shardmix::checkpoint
