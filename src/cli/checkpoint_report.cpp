#include "cli/checkpoint_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "train/format.hpp"
#include "train/memory_table.hpp"

namespace shardmix::cli {
namespace {

using Json = nlohmann::ordered_json;
using train::format_bytes;

/// A line "label  value".
std::string entry(std::string_view label, std::string_view value) {
  return fmt::format("{:<14}{}\n", label, value);
}

/// "beta1 0.9, lr (shape cosine, peak 0.001)".
std::string flat(const Json& json) {
  std::string text;
  for (const auto& [name, value] : json.items()) {
    if (!text.empty()) text += ", ";
    text += value.is_object()   ? fmt::format("{} ({})", name, flat(value))
            : value.is_string() ? fmt::format("{} {}", name, value.get<std::string>())
                                : fmt::format("{} {}", name, value.dump());
  }
  return text;
}

/// As flat() where the text is a JSON object, else the text itself.
std::string flat_text(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? flat(json) : text;
}

std::string files_text(const CheckpointInfo& info) {
  std::int64_t bytes = 0;
  for (const CheckpointFile& file : info.files) bytes += file.bytes;
  std::string text =
      entry("files", fmt::format("{}, {} together", info.files.size(), format_bytes(bytes)));
  const auto line = [](const auto& file) {
    return fmt::format("  {:<32}{:>10}  xxh3-128 {}\n", file.name, format_bytes(file.bytes),
                       file.xxh3_128);
  };
  for (const CheckpointFile& file : info.files) text += line(file);
  if (info.view) text += entry("view", "for people; no load looks at it") + line(*info.view);
  return text;
}

std::string parameters_text(const CheckpointInfo& info) {
  constexpr std::size_t most_listed = 8;
  std::vector<const CheckpointParameter*> largest;
  std::int64_t elements = 0;
  for (const CheckpointParameter& parameter : info.parameters) {
    largest.push_back(&parameter);
    elements += parameter.elements();
  }
  const std::size_t listed = std::min(most_listed, largest.size());
  std::ranges::stable_sort(largest, std::ranges::greater(), &CheckpointParameter::elements);
  std::string text = entry(
      "parameters", fmt::format("{}, {} elements; the largest:", info.parameters.size(), elements));
  for (std::size_t i = 0; i < listed; ++i) {
    const CheckpointParameter& p = *largest[i];
    text += fmt::format("  {:<32}{:>10}  {} {}{}\n", p.name, p.elements(), name_of(p.dtype),
                        fmt::join(p.shape, " x "), p.trainable ? "" : ", frozen");
  }
  return text;
}

Json json_of(const MemoryReport& report) {
  return {{"parameter", report.parameter},
          {"gradient", report.gradient},
          {"reduced_gradient", report.reduced_gradient},
          {"master", report.master},
          {"m1", report.m1},
          {"m2", report.m2},
          {"v", report.v},
          {"total", report.total()}};
}

Json lists_of(const CheckpointInfo& info) {
  Json lists{{"memory", Json::array()}, {"files", Json::array()}, {"parameters", Json::array()}};
  for (const MemoryReport& report : info.memory) lists["memory"].push_back(json_of(report));
  for (const CheckpointFile& file : info.files) {
    lists["files"].push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"xxh3_128", file.xxh3_128}});
  }
  for (const CheckpointParameter& p : info.parameters) {
    lists["parameters"].push_back({{"name", p.name},
                                   {"shape", p.shape},
                                   {"dtype", name_of(p.dtype)},
                                   {"trainable", p.trainable}});
  }
  return lists;
}

}  // namespace

std::string report_text(const CheckpointInfo& info) {
  const Clocks& clocks = info.clocks;
  std::string text = entry("checkpoint", info.directory.string());
  text += entry("written", fmt::format("{} by shardmix {}, from {} rank(s)", info.created,
                                       info.shardmix_version, info.world_size));
  text += entry("clocks", fmt::format("step {}, {} updates, slow step {}", clocks.step,
                                      clocks.updates, clocks.slow_step));
  if (info.loss_scale != 1.0) {
    text += entry("loss scale", fmt::format("{:g}", info.loss_scale));
  }
  text += entry("rule", fmt::format("{}: {}", info.rule, flat_text(info.rule_json)));
  text += entry("states", fmt::format("{}", fmt::join(info.states, ", ")));
  if (!info.trainer_state.empty()) text += entry("trainer", flat_text(info.trainer_state));
  text += '\n';
  if (!info.memory.empty()) text += train::memory_table(info.memory) + "\n\n";
  return text + files_text(info) + '\n' + parameters_text(info);
}

std::string report_json(const CheckpointInfo& info) {
  Json json{{"directory", info.directory.string()},
            {"created", info.created},
            {"shardmix_version", info.shardmix_version},
            {"rule", info.rule},
            {"hyper_parameters", Json::parse(info.rule_json, nullptr, false)},
            {"step", info.clocks.step},
            {"updates", info.clocks.updates},
            {"slow_step", info.clocks.slow_step},
            {"loss_scale", info.loss_scale},
            {"world_size", info.world_size},
            {"states", info.states},
            {"trainer_state", info.trainer_state}};
  if (info.view) {
    json["view"] = {
        {"name", info.view->name}, {"bytes", info.view->bytes}, {"xxh3_128", info.view->xxh3_128}};
  }
  json.update(lists_of(info));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace shardmix::cli
