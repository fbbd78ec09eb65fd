#include "checkpoint/manifest.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/bounded_json.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/hashes.hpp"
#include "checkpoint/shard_format.hpp"
#include "optimizer/sharded_state.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* format_name = "shardmix checkpoint";
constexpr int format_version = 1;
constexpr std::int64_t most_manifest_bytes = std::int64_t{256} << 20;
constexpr std::int64_t most_head_bytes = std::int64_t{1} << 30;
constexpr std::int64_t most_file_bytes = std::int64_t{1} << 50;
/// Of bytes or elements of a whole checkpoint.
constexpr std::int64_t most_total = std::int64_t{1} << 56;
/// Begins the line of the manifest's own checksum, which the object's end follows.
constexpr std::string_view checksum_line = ",\n \"xxh3_128\": \"";
constexpr std::string_view after_checksum = "\"\n}\n";

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
  return {.parameter = integer_at(json, "parameter"),
          .gradient = integer_at(json, "gradient"),
          .reduced_gradient = integer_at(json, "reduced_gradient"),
          .master = integer_at(json, "master"),
          .m1 = integer_at(json, "m1"),
          .m2 = integer_at(json, "m2"),
          .v = integer_at(json, "v")};
}

CheckpointParameter parameter_from(const Json& json) {
  CheckpointParameter p{.name = json.at("name"),
                        .shape = {},
                        .dtype = dtype_named(json.at("dtype").get<std::string>()),
                        .trainable = json.at("trainable")};
  std::int64_t elements = 1;
  for (const Json& number : json.at("shape")) {
    const std::int64_t extent = p.shape.emplace_back(integer_of(number, "an extent of a shape"));
    if (extent < 0 || __builtin_mul_overflow(elements, extent, &elements)) {
      throw CheckpointError(fmt::format("the shape of parameter '{}' is impossible", p.name));
    }
  }
  return p;
}

Json json_of(const CheckpointFile& file) {
  Json json{{"name", file.name},         {"bytes", file.bytes},
            {"xxh3_128", file.xxh3_128}, {"head_bytes", file.head_bytes},
            {"blocks", Json::array()},   {"arrays", Json::array()}};
  for (const std::uint64_t block : file.blocks) json["blocks"].push_back(digits_of(block));
  for (const CheckpointArray& a : file.arrays)
    json["arrays"].push_back({{"name", a.name}, {"offset", a.offset}, {"bytes", a.bytes}});
  return json;
}

void require(bool holds, const CheckpointFile& file, std::string_view what) {
  if (!holds) throw CheckpointError(fmt::format("of the file '{}' {}", file.name, what));
}

/// Arrays lie where they must, and don't overlap.
void check_arrays(const CheckpointFile& file) {
  std::vector<CheckpointArray> arrays = file.arrays;
  std::ranges::sort(arrays, {}, &CheckpointArray::offset);
  std::int64_t end = 0;
  for (const CheckpointArray& a : arrays) {
    const bool is_index = a.name == index_name || a.name == frozen_index_name;
    const std::int64_t from = is_index ? 0 : file.head_bytes;
    const std::int64_t to = is_index ? file.head_bytes : file.bytes;
    const auto unit = static_cast<std::int64_t>(is_index ? sizeof(IndexRow) : sizeof(float));
    require(a.offset >= from && a.offset <= to && a.bytes >= 0 && a.bytes <= to - a.offset, file,
            fmt::format("the array '{}' lies in no place that it may have", a.name));
    require(a.offset % 4 == 0 && a.bytes % unit == 0, file,
            fmt::format("the array '{}' doesn't consist of whole elements", a.name));
    if (a.bytes == 0) continue;
    require(a.offset >= end, file, fmt::format("the array '{}' overlaps another one", a.name));
    end = a.offset + a.bytes;
  }
}

void require_inside(const std::string& name) {
  if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    throw CheckpointError(
        fmt::format("the file name '{}' doesn't stay inside the checkpoint", name));
  }
}

CheckpointFile file_from(const Json& json) {
  CheckpointFile file{.name = json.at("name"),
                      .bytes = integer_at(json, "bytes"),
                      .xxh3_128 = json.at("xxh3_128"),
                      .head_bytes = integer_at(json, "head_bytes")};
  require_inside(file.name);
  require(file.head_bytes >= 0 && file.head_bytes <= most_head_bytes && file.head_bytes % 4 == 0 &&
              file.bytes >= file.head_bytes && file.bytes <= most_file_bytes,
          file, "the sizes are impossible");
  for (const Json& b : json.at("blocks")) file.blocks.push_back(hash_of_digits(b));
  require(std::ssize(file.blocks) == block_count(file.bytes, file.head_bytes), file,
          fmt::format("there are {} checksums of blocks, but {} blocks", file.blocks.size(),
                      block_count(file.bytes, file.head_bytes)));
  for (const Json& a : json.at("arrays"))
    file.arrays.push_back(
        {.name = a.at("name"), .offset = integer_at(a, "offset"), .bytes = integer_at(a, "bytes")});
  check_arrays(file);
  return file;
}

CheckpointView view_from(const Json& json) {
  CheckpointView view{
      .name = json.at("name"), .bytes = integer_at(json, "bytes"), .xxh3_128 = json.at("xxh3_128")};
  require_inside(view.name);
  if (view.bytes < 0 || view.bytes > most_file_bytes)
    throw CheckpointError(fmt::format("the size of the view '{}' is impossible", view.name));
  return view;
}

/// A file has the arrays of all states and no other.
void check_names(const CheckpointFile& file, const std::vector<std::string>& states) {
  std::set<std::string> missing{index_name};
  for (const std::string& s : states) missing.insert(state_array_name(s));
  int frozen = 0;
  for (const CheckpointArray& a : file.arrays) {
    const bool is_frozen = a.name == frozen_index_name || a.name == frozen_value_name;
    require(missing.erase(a.name) == 1 || is_frozen, file,
            fmt::format("an array '{}' isn't expected", a.name));
    frozen += is_frozen ? 1 : 0;
  }
  if (!missing.empty())
    require(false, file, fmt::format("the array '{}' is missing", *missing.begin()));
  require(frozen == 0 || (frozen == 2 && file.arrays.size() == states.size() + 3), file,
          "the frozen values or their index is missing, or there twice");
}

template <class T>
void require_distinct(const std::vector<T>& list, const char* what) {
  std::set<std::string> names;
  for (const T& item : list) {
    if (!names.insert(item.name).second)
      throw CheckpointError(fmt::format("the {} '{}' is there twice", what, item.name));
  }
}

/// What reports add up stays far from overflows.
void check_totals(const CheckpointInfo& info) {
  const auto add = [](std::int64_t& sum, std::int64_t value, const char* what) {
    if (value < 0 || value > most_total || (sum += value) > most_total)
      throw CheckpointError(fmt::format("its {} are impossible", what));
  };
  std::int64_t elements = 0;
  std::int64_t file_bytes = 0;
  std::int64_t memory = 0;
  for (const CheckpointParameter& p : info.parameters)
    add(elements, p.elements(), "numbers of elements");
  for (const CheckpointFile& f : info.files) add(file_bytes, f.bytes, "files' sizes");
  for (const MemoryReport& m : info.memory) {
    for (const std::int64_t bytes :
         {m.parameter, m.gradient, m.reduced_gradient, m.master, m.m1, m.m2, m.v})
      add(memory, bytes, "ranks' bytes of memory");
  }
}

CheckpointInfo info_from(const Json& json) {
  if (json.at("format") != format_name) throw CheckpointError("it is not a manifest of shardmix");
  if (const std::int64_t version = integer_at(json, "format_version"); version != format_version) {
    throw CheckpointError(fmt::format("its format version is {}, but this program reads {}",
                                      version, format_version));
  }
  CheckpointInfo info;
  info.created = json.at("created");
  info.shardmix_version = json.at("shardmix_version");
  info.rule = json.at("rule");
  info.rule_json = json.at("hyper_parameters").dump();
  info.clocks = {.step = integer_at(json, "step"),
                 .updates = integer_at(json, "updates"),
                 .slow_step = integer_at(json, "slow_step")};
  info.loss_scale = json.value("loss_scale", 1.0);
  if (json.contains("usable_steps")) info.usable_steps = integer_at(json, "usable_steps");
  const std::int64_t world_size = integer_at(json, "world_size");
  if (world_size < 0 || world_size > std::numeric_limits<int>::max())
    throw CheckpointError(fmt::format("its world_size is impossible: {}", world_size));
  info.world_size = static_cast<int>(world_size);
  info.states = json.at("states");
  for (const std::string& s : info.states) {
    if (std::ranges::count(info.states, s) != 1 ||
        std::ranges::find(optimizer::all_states, s, [](optimizer::State state) {
          return name_of(state);
        }) == optimizer::all_states.end())
      throw CheckpointError(
          fmt::format("its states are impossible: {}", fmt::join(info.states, ", ")));
  }
  for (const Json& p : json.at("parameters")) info.parameters.push_back(parameter_from(p));
  for (const Json& m : json.at("memory")) info.memory.push_back(memory_from(m));
  for (const Json& f : json.at("files")) {
    info.files.push_back(file_from(f));
    check_names(info.files.back(), info.states);
  }
  if (json.contains("view")) info.view = view_from(json["view"]);
  info.trainer_state = json.at("trainer_state");
  require_distinct(info.parameters, "parameter");
  require_distinct(info.files, "file");
  if (info.view && std::ranges::count(info.files, info.view->name, &CheckpointFile::name) > 0)
    throw CheckpointError(fmt::format("the view '{}' is a file of the state too", info.view->name));
  check_totals(info);
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

std::string time_of_creation() {
  return fmt::format(
      "{:%FT%TZ}",
      fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

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
    json["files"].push_back(json_of(f));
  }
  if (info.view) {
    json["view"] = {
        {"name", info.view->name}, {"bytes", info.view->bytes}, {"xxh3_128", info.view->xxh3_128}};
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
  std::string text = json.dump(1);
  text.resize(text.size() - 2);  // "\n}"
  return fmt::format("{}{}{}{}", text, checksum_line, digits128_of(text), after_checksum);
}

std::string part_text(const Part& part) {
  Json json{{"memory", json_of(part.memory)}};
  if (part.file) json["file"] = json_of(*part.file);
  return json.dump();
}

Part parse_part(const std::string& text) {
  const Json json = Json::parse(text);
  Part part{.file = std::nullopt, .memory = memory_from(json.at("memory"))};
  if (json.contains("file")) part.file = file_from(json["file"]);
  return part;
}

namespace {

void check_checksum(const std::string& text) {
  const std::size_t tail = checksum_line.size() + 32 + after_checksum.size();
  const bool has_one = text.size() > tail && text.ends_with(after_checksum) &&
                       text.substr(text.size() - tail).starts_with(checksum_line);
  if (!has_one) {
    throw CheckpointError("it doesn't end with its checksum; it is damaged or cut short");
  }
  const std::string_view body = std::string_view(text).substr(0, text.size() - tail);
  const std::string found = digits128_of(body);
  const std::string expected = text.substr(text.size() - 32 - after_checksum.size(), 32);
  if (found != expected) {
    throw CheckpointError(fmt::format(
        "its text has the checksum {}, but its end says {}; it is damaged", found, expected));
  }
}

}  // namespace

CheckpointInfo parse_manifest(const std::string& text, const fs::path& directory) {
  try {
    check_checksum(text);
    CheckpointInfo info = info_from(parse_bounded<Json>(text));
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

std::string shard_name(int file, int files) {
  return fmt::format("shard-{:05}-of-{:05}.h5", file, files);
}

}  // namespace checkpoint

std::int64_t CheckpointParameter::elements() const noexcept {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

}  // namespace shardmix
