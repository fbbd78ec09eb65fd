#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>

#include "checkpoint/bounded_json.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/import_source.hpp"
#include "checkpoint/rule_json.hpp"
#include "checkpoint/values.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* format_name = "shardmix states";
constexpr std::int64_t format_version = 1;
constexpr std::int64_t most_sidecar_bytes = std::int64_t{256} << 20;

/// An object, and what errors call it. It has no member but those it may have.
class Entry {
 public:
  Entry(const Json& json, std::string what, std::initializer_list<std::string_view> keys)
      : json_(json), what_(std::move(what)) {
    if (!json.is_object()) throw CheckpointError(fmt::format("{} isn't an object", what_));
    for (const auto& [key, value] : json.items()) {
      if (std::ranges::find(keys, key) == keys.end()) {
        throw CheckpointError(fmt::format("{} has a member '{}', which isn't known; expected {}",
                                          what_, key, fmt::join(keys, ", ")));
      }
    }
  }

  [[nodiscard]] const std::string& what() const noexcept { return what_; }
  [[nodiscard]] const Json* find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }
  [[nodiscard]] const std::string* text(const char* key) const {
    const Json* found = find(key);
    if (found == nullptr) return nullptr;
    if (!found->is_string())
      throw CheckpointError(fmt::format("the {} of {} isn't a text", key, what_));
    return &found->get_ref<const std::string&>();
  }
  [[nodiscard]] const std::string& needed_text(const char* key) const {
    const std::string* found = text(key);
    if (found == nullptr) throw CheckpointError(fmt::format("{} has no {}", what_, key));
    return *found;
  }
  [[nodiscard]] const Json& needed_list(const char* key) const {
    const Json* found = find(key);
    if (found == nullptr || !found->is_array())
      throw CheckpointError(fmt::format("{} has no list of {}", what_, key));
    return *found;
  }
  [[nodiscard]] std::optional<std::int64_t> count(const char* key) const {
    const Json* found = find(key);
    if (found == nullptr) return std::nullopt;
    const std::int64_t value = integer_of(*found, fmt::format("the {} of {}", key, what_));
    if (value < 0)
      throw CheckpointError(fmt::format("the {} of {} is negative: {}", key, what_, value));
    return value;
  }
  [[nodiscard]] bool flag(const char* key, bool otherwise) const {
    const Json* found = find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_boolean())
      throw CheckpointError(fmt::format("the {} of {} is neither true nor false", key, what_));
    return found->get<bool>();
  }

 private:
  const Json& json_;
  std::string what_;
};

/// All tensors of all files by name.
using Tensors = std::map<std::string, SourceTensor>;

std::uint32_t crc32_of_digits(const std::string& digits, const std::string& what) {
  std::uint32_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value, 16);
  if (digits.size() != 8 || error != std::errc() || stop != end)
    throw CheckpointError(fmt::format("the crc32 of {} isn't 8 hexadecimal digits", what));
  return value;
}

/// A sidecar speaks of what lies beside it, and of nothing else.
void require_beside(const std::string& name) {
  if (name.find('\0') != std::string::npos)
    throw CheckpointError("a file name has a zero byte in it; files lie beside their sidecar");
  if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos) {
    throw CheckpointError(
        fmt::format("the file name '{}' leads elsewhere; files lie beside their sidecar", name));
  }
}

Tensors open_files(const Json& list, const fs::path& directory, ImportSource& source) {
  Tensors tensors;
  for (const Json& json : list) {
    const Entry entry(json, fmt::format("file number {}", source.files.size()),
                      {"name", "bytes", "crc32"});
    const std::string& name = entry.needed_text("name");
    require_beside(name);
    auto [file, found] = open_source_file(directory / name);
    if (const auto bytes = entry.count("bytes"); bytes && *bytes != file.bytes) {
      throw CheckpointError(
          fmt::format("the file '{}' has {} bytes, but should have {}", name, file.bytes, *bytes));
    }
    if (const std::string* digits = entry.text("crc32"))
      file.crc32 = crc32_of_digits(*digits, fmt::format("the file '{}'", name));
    for (SafetensorsTensor& tensor : found.tensors) {
      const std::string key = tensor.name;
      const SourceTensor here{.file = source.files.size(), .tensor = std::move(tensor)};
      if (!tensors.emplace(key, here).second)
        throw CheckpointError(fmt::format("two files have a tensor '{}'", key));
    }
    source.files.push_back(std::move(file));
  }
  return tensors;
}

/// Takes each tensor once: two parameters with one state between them are a mistake.
class Taker {
 public:
  explicit Taker(const Tensors& tensors) : left_(tensors) {}

  SourceTensor take(const std::string& name, const std::string& what) {
    const auto found = left_.find(name);
    if (found == left_.end()) {
      throw CheckpointError(fmt::format(
          "{} needs the tensor '{}', which no file has, or which is taken already", what, name));
    }
    SourceTensor tensor = std::move(found->second);
    left_.erase(found);
    return tensor;
  }
  [[nodiscard]] std::vector<std::string> rest() const {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : left_) names.push_back(name);
    return names;
  }

 private:
  Tensors left_;
};

/// A number, or the name of a tensor that holds one.
void add_step(const Json& json, const std::string& what, Taker& taker, ImportSource& source) {
  std::int64_t step = 0;
  if (json.is_string()) {
    const SourceTensor tensor = taker.take(json.get<std::string>(), what);
    step = step_in(source.files[tensor.file], tensor.tensor);
  } else if (json.is_number_float()) {
    step = whole_step(json.get<double>(), what);
  } else {
    step = integer_of(json, fmt::format("the step of {}", what));
  }
  source.steps.push_back({step, what});
}

SourceParameter parameter_from(const Json& json, std::size_t number, Taker& taker,
                               ImportSource& source) {
  const Entry entry(
      json, fmt::format("parameter number {}", number),
      {"name", "dtype", "trainable", "group", "weight", "master", "m1", "m2", "v", "step"});
  SourceParameter parameter;
  const std::string* name = entry.text("name");
  parameter.name = name != nullptr ? *name : std::to_string(number);
  if (const std::string* dtype = entry.text("dtype")) parameter.dtype = dtype_named(*dtype);
  parameter.trainable = entry.flag("trainable", true);
  parameter.group = static_cast<std::size_t>(entry.count("group").value_or(0));
  if (parameter.group >= std::max<std::size_t>(source.groups.size(), 1)) {
    throw CheckpointError(fmt::format("{} is of group {}, but there are {} groups", entry.what(),
                                      parameter.group, source.groups.size()));
  }
  const std::string what = fmt::format("the parameter '{}'", parameter.name);
  if (const std::string* weight = entry.text("weight"))
    parameter.weight = taker.take(*weight, what);
  for (const char* state : {"master", "m1", "m2", "v"}) {
    if (const std::string* tensor = entry.text(state))
      parameter.states.emplace(state, taker.take(*tensor, what));
  }
  if (const Json* step = entry.find("step")) add_step(*step, what, taker, source);
  return parameter;
}

ImportSource source_from(const Json& json, const fs::path& directory) {
  const Entry entry(json, "it",
                    {"format", "format_version", "source", "rule", "step", "updates", "slow_step",
                     "files", "groups", "parameters"});
  if (entry.needed_text("format") != format_name)
    throw CheckpointError(fmt::format("its format isn't \"{}\"", format_name));
  if (const auto version = entry.count("format_version"); version != format_version) {
    throw CheckpointError(fmt::format("its format version is {}, but this program reads {}",
                                      version.value_or(0), format_version));
  }
  ImportSource source{.has_order = true};
  if (const std::string* origin = entry.text("source")) source.origin = *origin;
  source.rule = entry.needed_text("rule");
  Taker taker(open_files(entry.needed_list("files"), directory, source));
  if (entry.find("groups") != nullptr) {
    for (const Json& group : entry.needed_list("groups"))
      source.groups.push_back(rule_from(*source.rule, group));
  }
  if (const Json* step = entry.find("step")) add_step(*step, "the sidecar", taker, source);
  source.updates = entry.count("updates");
  source.slow_step = entry.count("slow_step");
  for (const Json& parameter : entry.needed_list("parameters"))
    source.parameters.push_back(parameter_from(parameter, source.parameters.size(), taker, source));
  source.unused = taker.rest();
  return source;
}

}  // namespace

ImportSource read_sidecar(const fs::path& path) {
  const std::string text = read_text(path, most_sidecar_bytes);
  try {
    return source_from(parse_bounded<Json>(text), path.parent_path());
  } catch (const std::exception& error) {
    throw CheckpointError(
        fmt::format("the sidecar '{}' can't be used: {}", path.string(), error.what()));
  }
}

}  // namespace shardmix::checkpoint
