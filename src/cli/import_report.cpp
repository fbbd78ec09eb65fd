#include "cli/import_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/rule_json.hpp"
#include "cli/printable.hpp"
#include "train/format.hpp"

namespace shardmix::cli {
namespace {

using Json = nlohmann::ordered_json;
using checkpoint::ImportPlan;
using checkpoint::PlannedParameter;

std::string entry(std::string_view label, std::string_view value) {
  return fmt::format("{:<14}{}\n", label, value);
}

/// "lr 0.001, beta1 0.9": a number as it came; a schedule by its peak.
std::string group_text(const Rule& rule) {
  std::string text = fmt::format("lr {}", lr_of(rule).peak);
  const Json numbers = checkpoint::json_of(rule);
  for (const auto& [name, value] : numbers.items()) {
    if (name != "lr") text += fmt::format(", {} {}", name, value.dump());
  }
  return text;
}

/// "master x.master, m1 x.exp_avg"
std::string tensors_text(const PlannedParameter& planned) {
  std::string text;
  for (const auto& [state, tensor] : planned.tensors) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", state, printable(tensor.tensor.name));
    if (tensor.tensor.type != checkpoint::safetensors_f32)
      text += fmt::format(" ({})", tensor.tensor.type.name);
  }
  return text;
}

std::string parameters_text(const ImportPlan& plan) {
  std::size_t name_width = 0;
  std::size_t shape_width = 0;
  for (const PlannedParameter& p : plan.parameters) {
    name_width = std::max(name_width, printable(p.parameter.name).size());
    shape_width = std::max(shape_width, shape_text(p.parameter.shape).size());
  }
  name_width = std::min<std::size_t>(name_width, 64);
  shape_width = std::min<std::size_t>(shape_width, 32);
  std::string text = entry("parameters", fmt::format("{}", plan.parameters.size()));
  for (const PlannedParameter& p : plan.parameters) {
    const std::string kind =
        p.parameter.trainable ? fmt::format("group {}", p.group) : std::string("frozen");
    const std::string renamed = p.source_name == p.parameter.name
                                    ? std::string()
                                    : fmt::format("from '{}': ", printable(p.source_name));
    text += fmt::format("  {:<{}}  {:<{}}  {}  {:<8}  {}{}\n", printable(p.parameter.name),
                        name_width, shape_text(p.parameter.shape), shape_width,
                        name_of(p.parameter.dtype), kind, renamed, tensors_text(p));
  }
  return text;
}

Json json_of(const PlannedParameter& p) {
  Json tensors = Json::object();
  for (const auto& [state, tensor] : p.tensors)
    tensors[state] = {{"tensor", tensor.tensor.name}, {"dtype", tensor.tensor.type.name}};
  return {{"name", p.parameter.name},
          {"source_name", p.source_name},
          {"shape", p.parameter.shape},
          {"dtype", name_of(p.parameter.dtype)},
          {"trainable", p.parameter.trainable},
          {"group", p.group},
          {"tensors", tensors}};
}

}  // namespace

std::string import_text(const ImportPlan& plan, const std::optional<CheckpointInfo>& written) {
  const CheckpointInfo& info = plan.info;
  std::string text;
  if (!plan.source.origin.empty()) text += entry("source", printable(plan.source.origin));
  for (const checkpoint::SourceFile& file : plan.source.files) {
    text +=
        entry("file", fmt::format("{}, {}{}", file.path.string(), train::format_bytes(file.bytes),
                                  file.crc32 ? ", its checksum is right" : ""));
  }
  text += entry("rule", info.rule);
  text += entry("clocks", fmt::format("step {}, updates {}, slow step {}", info.clocks.step,
                                      info.clocks.updates, info.clocks.slow_step));
  for (std::size_t g = 0; g < plan.source.groups.size(); ++g) {
    text += entry(fmt::format("group {}", g),
                  fmt::format("{}; {} parameters", group_text(plan.source.groups[g]),
                              std::ranges::count(plan.parameters, g, &PlannedParameter::group)));
  }
  text += parameters_text(plan);
  for (const std::string& warning : plan.warnings) text += "warning: " + printable(warning) + '\n';
  if (written) {
    text += fmt::format(
        "{}: go on from it with this rule's hyper-parameters and groups, which a "
        "checkpoint doesn't set\n",
        written->directory.string());
  } else {
    text += "nothing was written (--check)\n";
  }
  return text;
}

std::string import_json(const ImportPlan& plan, const std::optional<CheckpointInfo>& written) {
  const CheckpointInfo& info = plan.info;
  Json json{{"checkpoint", written ? Json(written->directory.string()) : Json()},
            {"source", plan.source.origin},
            {"files", Json::array()},
            {"rule", info.rule},
            {"step", info.clocks.step},
            {"updates", info.clocks.updates},
            {"slow_step", info.clocks.slow_step},
            {"groups", Json::array()},
            {"parameters", Json::array()},
            {"unused", plan.source.unused},
            {"warnings", plan.warnings}};
  for (const checkpoint::SourceFile& file : plan.source.files)
    json["files"].push_back({{"path", file.path.string()},
                             {"bytes", file.bytes},
                             {"verified", file.crc32.has_value()}});
  for (const Rule& rule : plan.source.groups) json["groups"].push_back(checkpoint::json_of(rule));
  for (const PlannedParameter& p : plan.parameters) json["parameters"].push_back(json_of(p));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace shardmix::cli
