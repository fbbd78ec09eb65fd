#include "checkpoint/rule_json.hpp"

#include <fmt/format.h>

#include <string>

#include "checkpoint/bounded_json.hpp"
#include "math/update_rules.hpp"
#include "shardmix/error.hpp"

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

double number_from(const nlohmann::json& json, std::string_view name) {
  if (!json.is_number()) throw CheckpointError(fmt::format("{} isn't a number", name));
  return json.get<double>();
}

Schedule schedule_from(const nlohmann::json& json) {
  if (!json.is_object()) return number_from(json, "lr");
  Schedule lr;
  for (const auto& [key, value] : json.items()) {
    if (key == "shape" && value.is_string()) {
      lr.shape = schedule_shape_named(value.get<std::string>());
    } else if (key == "peak" || key == "final") {
      (key == "peak" ? lr.peak : lr.final) = number_from(value, key);
    } else if (key == "warmup" || key == "steps" || key == "decay") {
      (key == "warmup" ? lr.warmup : key == "steps" ? lr.steps : lr.decay) = integer_of(value, key);
    } else {
      throw CheckpointError(fmt::format("a schedule can't have this '{}'", key));
    }
  }
  return lr;
}

/// Whether `key` is the length of a schedule, which is then set.
bool set_length(Rule& rule, const std::string& key, const nlohmann::json& value) {
  return std::visit(
      [&]<class R>(R& r) {
        for (const auto& length : math::Spec<R>::lengths) {
          if (length.name != key) continue;
          r.*length.steps = integer_of(value, key);
          return true;
        }
        return false;
      },
      rule);
}

Rule unchecked_rule_from(std::string_view name, const nlohmann::json& json) {
  Rule rule = rule_named(name);
  if (!json.is_object()) throw CheckpointError("they aren't an object");
  Group numbers;
  for (const auto& [key, value] : json.items()) {
    if (key == "lr")
      std::visit([lr = schedule_from(value)](auto& r) { r.lr = lr; }, rule);
    else if (!set_length(rule, key, value))
      numbers.hyper_parameters[key] = number_from(value, key);
  }
  return rule_for(rule, numbers);
}

}  // namespace

Rule rule_from(std::string_view name, const nlohmann::json& json) {
  try {
    return unchecked_rule_from(name, json);
  } catch (const Error& error) {
    throw CheckpointError(
        fmt::format("the hyper-parameters of {} can't be used: {}", name, error.what()));
  }
}

Json json_of(const Rule& rule) {
  Json json{{"lr", json_of(lr_of(rule))}};
  math::for_each_hyper_parameter(
      rule, [&](std::string_view name, auto value) { json[std::string(name)] = value; });
  return json;
}

}  // namespace shardmix::checkpoint
