#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "checkpoint/bounded_json.hpp"
#include "checkpoint/import_source.hpp"
#include "checkpoint/rule_json.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view placeholder = "NAME";
constexpr std::array roles{"weight", "master", "m1", "m2", "v", "step"};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// What a tensor may be.
struct Meaning {
  std::string role;
  std::string name;  ///< of the parameter
};

/// What stands for NAME in `text`; nothing where the pattern doesn't fit.
std::optional<std::string> name_in(const std::string& text, const std::string& pattern) {
  const std::size_t at = pattern.find(placeholder);
  const std::string before = pattern.substr(0, at);
  const std::string after = pattern.substr(at + placeholder.size());
  const bool fits = text.size() > before.size() + after.size() && text.starts_with(before) &&
                    text.ends_with(after);
  if (!fits) return std::nullopt;
  return text.substr(before.size(), text.size() - before.size() - after.size());
}

/// What the patterns that say most of a name make of it. Nothing where none fits.
std::vector<Meaning> meanings_of(const std::string& tensor, const Naming& naming) {
  std::vector<Meaning> best;
  std::size_t longest = 0;
  for (const auto& [role, patterns] : naming) {
    for (const std::string& pattern : patterns) {
      const std::optional<std::string> name = name_in(tensor, pattern);
      if (!name || pattern.size() < longest) continue;
      if (pattern.size() > longest) best.clear();
      longest = pattern.size();
      best.push_back({role, *name});
    }
  }
  return best;
}

std::string in_words(const Meaning& meaning) {
  return fmt::format("the {} of '{}'", meaning.role, meaning.name);
}

Meaning meaning_of(const std::string& tensor, const Naming& naming) {
  const std::vector<Meaning> found = meanings_of(tensor, naming);
  if (found.size() == 1) return found.front();
  if (found.empty()) return {};
  throw CheckpointError(
      fmt::format("the tensor '{}' may be {} or {}; say --naming, or use a "
                  "sidecar",
                  tensor, in_words(found[0]), in_words(found[1])));
}

struct Found {
  Meaning meaning;
  SourceTensor tensor;
};

/// A tensor that is taken for a state of one parameter must not look like another one's weights.
void require_unambiguous(const std::vector<Found>& all, const Naming& naming) {
  std::set<std::string> owners;
  for (const Found& found : all) {
    if (found.meaning.role != "weight") owners.insert(found.meaning.name);
  }
  for (const Found& found : all) {
    if (found.meaning.role == "weight") continue;
    for (const std::string& pattern : naming.at("weight")) {
      const auto name = name_in(found.tensor.tensor.name, pattern);
      if (!name || !owners.contains(*name)) continue;
      throw CheckpointError(
          fmt::format("the tensor '{}' may be {}, or the weight of '{}', of which there are states "
                      "too; say --naming, or use a sidecar",
                      found.tensor.tensor.name, in_words(found.meaning), *name));
    }
  }
}

using Metadata = std::map<std::string, std::string>;

/// Files of one checkpoint agree; `said` is what those before say.
void require_agreement(const Metadata& metadata, const SourceFile& file, Metadata& said) {
  for (const char* key : {"updates", "slow_step", "rule", "hyper_parameters"}) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) continue;
    const auto [before, is_new] = said.insert(*found);
    if (is_new || before->second == found->second) continue;
    throw CheckpointError(
        fmt::format("'{}' has in its metadata the {} '{}', but a file before it '{}'; are they of "
                    "one checkpoint?",
                    file.path.string(), key, found->second, before->second));
  }
}

/// What shardmix's own exports, and perhaps others, say beside the tensors.
void take_metadata(const Metadata& metadata, const SourceFile& file, Metadata& said,
                   ImportSource& source) {
  const auto number = [&](const char* key) -> std::optional<std::int64_t> {
    const auto found = metadata.find(key);
    if (found == metadata.end()) return std::nullopt;
    std::int64_t value = 0;
    const char* end = found->second.data() + found->second.size();
    const auto [stop, error] = std::from_chars(found->second.data(), end, value);
    if (error != std::errc() || stop != end || value < 0) {
      throw CheckpointError(fmt::format("'{}' has in its metadata the {} '{}', which is no number",
                                        file.path.string(), key, found->second));
    }
    return value;
  };
  if (const auto step = number("step"))
    source.steps.push_back({*step, fmt::format("the metadata of '{}'", file.path.string())});
  const auto writer = metadata.find("writer");
  if (writer == metadata.end() || !writer->second.starts_with("shardmix ")) return;
  require_agreement(metadata, file, said);
  source.origin = writer->second;
  if (const auto updates = number("updates")) source.updates = updates;
  if (const auto slow_step = number("slow_step")) source.slow_step = slow_step;
  if (const auto rule = metadata.find("rule"); rule != metadata.end()) {
    source.rule = rule->second;
    if (const auto numbers = metadata.find("hyper_parameters"); numbers != metadata.end())
      source.groups = {rule_from(*source.rule, parse_bounded<nlohmann::json>(numbers->second))};
  }
}

}  // namespace

std::string default_naming() {
  return "weight=NAME,master=NAME.master,m1=NAME.m1|NAME.exp_avg|NAME.exp_avg_fast,"
         "m2=NAME.m2|NAME.exp_avg_slow,v=NAME.v|NAME.exp_avg_sq,step=NAME.step";
}

Naming naming_from(const std::string& text) {
  Naming naming;
  if (!text.empty()) naming = naming_from("");
  for (const std::string& part : split(text.empty() ? default_naming() : text, ',')) {
    const std::size_t equals = part.find('=');
    const std::string role = part.substr(0, equals);
    if (equals == std::string::npos || std::ranges::find(roles, role) == roles.end()) {
      throw ConfigError(
          fmt::format("--naming has '{}', but each part is one of {}, \"=\" and "
                      "patterns, as in m1=NAME.m1|NAME.exp_avg",
                      part, fmt::join(roles, ", ")));
    }
    naming[role] = split(part.substr(equals + 1), '|');
    for (const std::string& pattern : naming[role]) {
      if (pattern.find(placeholder) == std::string::npos ||
          pattern.find(placeholder) != pattern.rfind(placeholder)) {
        throw ConfigError(
            fmt::format("the pattern '{}' of --naming must have {} in it once, where "
                        "the parameter's name is",
                        pattern, placeholder));
      }
    }
  }
  return naming;
}

ImportSource match_names(const std::vector<fs::path>& files, const Naming& naming) {
  ImportSource source;
  std::vector<Found> all;
  std::set<std::string> names;
  Metadata said;
  for (const fs::path& path : files) {
    auto [file, header] = open_source_file(path);
    for (SafetensorsTensor& tensor : header.tensors) {
      if (!names.insert(tensor.name).second)
        throw CheckpointError(fmt::format("two files have a tensor '{}'", tensor.name));
      const Meaning meaning = meaning_of(tensor.name, naming);
      if (meaning.role.empty())
        source.unused.push_back(tensor.name);
      else
        all.push_back({meaning, {.file = source.files.size(), .tensor = std::move(tensor)}});
    }
    take_metadata(header.metadata, file, said, source);
    source.files.push_back(std::move(file));
  }
  require_unambiguous(all, naming);
  std::map<std::string, std::size_t> positions;
  for (const Found& found : all) {
    const auto& [role, name] = found.meaning;
    const auto [at, is_new] = positions.emplace(name, source.parameters.size());
    if (is_new) source.parameters.push_back({.name = name});
    SourceParameter& parameter = source.parameters[at->second];
    if (role == "step") {
      source.steps.push_back({step_in(source.files[found.tensor.file], found.tensor.tensor),
                              fmt::format("the parameter '{}'", name)});
    } else if (role == "weight" && !parameter.weight) {
      parameter.weight = found.tensor;
    } else if (role == "weight" || !parameter.states.emplace(role, found.tensor).second) {
      throw CheckpointError(fmt::format("two tensors are {}, '{}' among them; say --naming",
                                        in_words(found.meaning), found.tensor.tensor.name));
    }
  }
  return source;
}

}  // namespace shardmix::checkpoint
