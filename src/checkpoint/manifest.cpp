#include "checkpoint/manifest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/files.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* format_name = "shardmix checkpoint";
constexpr int format_version = 1;
constexpr std::int64_t most_manifest_bytes = std::int64_t{256} << 20;

Json json_of(const MemoryReport& m) {
  return {{"parameter", m.parameter},
          {"gradient", m.gradient},
          {"reduced_gradient", m.reduced_gradient},
          {"master", m.master},
          {"m1", m.m1},
          {"m2", m.m2},
          {"v", m.v}};
}

MemoryReport memory_from(const Json& json) {
  return {.parameter = json.at("parameter"),
          .gradient = json.at("gradient"),
          .reduced_gradient = json.at("reduced_gradient"),
          .master = json.at("master"),
          .m1 = json.at("m1"),
          .m2 = json.at("m2"),
          .v = json.at("v")};
}

CheckpointParameter parameter_from(const Json& json) {
  CheckpointParameter p{.name = json.at("name"),
                        .shape = json.at("shape"),
                        .dtype = dtype_named(json.at("dtype").get<std::string>()),
                        .trainable = json.at("trainable")};
  std::int64_t elements = 1;
  for (const std::int64_t extent : p.shape) {
    if (extent < 0 || __builtin_mul_overflow(elements, extent, &elements)) {
      throw CheckpointError(fmt::format("the shape of parameter '{}' is impossible", p.name));
    }
  }
  return p;
}

CheckpointFile file_from(const Json& json) {
  CheckpointFile file{
      .name = json.at("name"), .bytes = json.at("bytes"), .xxh3_128 = json.at("xxh3_128")};
  if (file.name.empty() || file.name.front() == '.' || file.name.find('/') != std::string::npos) {
    throw CheckpointError(
        fmt::format("the file name '{}' doesn't stay inside the checkpoint", file.name));
  }
  return file;
}

template <class T>
void require_distinct(const std::vector<T>& list, const char* what) {
  std::set<std::string> names;
  for (const T& item : list) {
    if (!names.insert(item.name).second)
      throw CheckpointError(fmt::format("the {} '{}' is there twice", what, item.name));
  }
}

CheckpointInfo info_from(const Json& json) {
  if (json.at("format") != format_name) throw CheckpointError("it is not a manifest of shardmix");
  if (const int version = json.at("format_version"); version != format_version) {
    throw CheckpointError(fmt::format("its format version is {}, but this program reads {}",
                                      version, format_version));
  }
  CheckpointInfo info;
  info.created = json.at("created");
  info.shardmix_version = json.at("shardmix_version");
  info.rule = json.at("rule");
  info.rule_json = json.at("hyper_parameters").dump();
  info.clocks = {
      .step = json.at("step"), .updates = json.at("updates"), .slow_step = json.at("slow_step")};
  info.loss_scale = json.value("loss_scale", 1.0);
  if (json.contains("usable_steps")) info.usable_steps = json["usable_steps"].get<std::int64_t>();
  info.world_size = json.at("world_size");
  info.states = json.at("states");
  for (const Json& p : json.at("parameters")) info.parameters.push_back(parameter_from(p));
  for (const Json& m : json.at("memory")) info.memory.push_back(memory_from(m));
  for (const Json& f : json.at("files")) info.files.push_back(file_from(f));
  info.trainer_state = json.at("trainer_state");
  require_distinct(info.parameters, "parameter");
  require_distinct(info.files, "file");
  const Clocks& c = info.clocks;
  if (c.slow_step < 0 || c.updates < c.slow_step || c.step < c.updates) {
    throw CheckpointError(
        fmt::format("its clocks are impossible: step {}, updates {}, slow step {}", c.step,
                    c.updates, c.slow_step));
  }
  if (!(info.loss_scale >= 1.0 && std::isfinite(info.loss_scale)) ||
      info.usable_steps.value_or(0) < 0) {
    throw CheckpointError(fmt::format("its loss scale is impossible: {} for {} steps",
                                      info.loss_scale, info.usable_steps.value_or(0)));
  }
  return info;
}

}  // namespace

std::string manifest_text(const CheckpointInfo& info) {
  Json json{{"format", format_name},
            {"format_version", format_version},
            {"created", info.created},
            {"shardmix_version", info.shardmix_version},
            {"step", info.clocks.step},
            {"updates", info.clocks.updates},
            {"slow_step", info.clocks.slow_step},
            {"loss_scale", info.loss_scale},
            {"rule", info.rule},
            {"hyper_parameters", Json::parse(info.rule_json)},
            {"world_size", info.world_size},
            {"states", info.states},
            {"trainer_state", info.trainer_state}};
  if (info.usable_steps) json["usable_steps"] = *info.usable_steps;
  json["files"] = Json::array();
  for (const CheckpointFile& f : info.files) {
    json["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"xxh3_128", f.xxh3_128}});
  }
  json["memory"] = Json::array();
  for (const MemoryReport& m : info.memory) json["memory"].push_back(json_of(m));
  json["parameters"] = Json::array();
  for (const CheckpointParameter& p : info.parameters) {
    json["parameters"].push_back({{"name", p.name},
                                  {"shape", p.shape},
                                  {"dtype", name_of(p.dtype)},
                                  {"trainable", p.trainable}});
  }
  return json.dump(1) + "\n";
}

CheckpointInfo parse_manifest(const std::string& text, const fs::path& directory) {
  try {
    CheckpointInfo info = info_from(Json::parse(text));
    info.directory = directory;
    return info;
  } catch (const std::exception& error) {
    throw CheckpointError(
        fmt::format("the manifest of '{}' can't be used: {}", directory.string(), error.what()));
  }
}

std::string read_manifest(const fs::path& directory) {
  return read_text(directory / manifest_name, most_manifest_bytes);
}

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("step_{:09}", step);
}

std::string shard_name(int rank, int size) {
  return fmt::format("shard-{:05}-of-{:05}.h5", rank, size);
}

std::vector<fs::path> list_checkpoints(const fs::path& directory) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step_") || name.size() > 24) continue;
    const std::string digits = name.substr(5);
    if (digits.empty() || !std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; }))
      continue;
    if (fs::exists(entry.path() / manifest_name))
      found.emplace_back(std::stoll(digits), entry.path());
  }
  std::ranges::sort(found, std::greater{});
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

fs::path find_checkpoint(const fs::path& path) {
  if (!fs::is_directory(path))
    throw CheckpointError(fmt::format("there is no checkpoint directory '{}'", path.string()));
  if (fs::exists(path / manifest_name)) return path;
  const auto all = list_checkpoints(path);
  if (all.empty()) {
    throw CheckpointError(
        fmt::format("'{}' is no checkpoint and holds none: expected a {} in it, or directories "
                    "named step_N that have one",
                    path.string(), manifest_name));
  }
  return all.front();
}

}  // namespace checkpoint

CheckpointInfo inspect_checkpoint(const std::filesystem::path& path) {
  const auto directory = checkpoint::find_checkpoint(path);
  return checkpoint::parse_manifest(checkpoint::read_manifest(directory), directory);
}

}  // namespace shardmix
