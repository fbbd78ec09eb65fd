#include "checkpoint/import_plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/rule_json.hpp"
#include "checkpoint/values.hpp"
#include "layout/utf8.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_names_bytes = std::int64_t{64} << 20;

/// Names in a sentence that has to end.
std::string some_of(const std::vector<std::string>& names) {
  constexpr std::size_t most = 5;
  if (names.size() <= most) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + most, ", "),
                     names.size() - most);
}

std::optional<DType> dtype_of(const SafetensorsType& type) {
  if (type == safetensors_f32) return fp32;
  if (type.name == "BF16") return bf16;
  if (type.name == "F16") return fp16;
  return std::nullopt;
}

void require_type(const SourceTensor& source) {
  if (dtype_of(source.tensor.type)) return;
  throw CheckpointError(
      fmt::format("the tensor '{}' has the dtype {}, but weights and moments must be F32, BF16 or "
                  "F16: others don't fit into fp32 without loss",
                  source.tensor.name, source.tensor.type.name));
}

/// The position in the source of a parameter that has a number for a name.
std::optional<std::size_t> number_in(const std::string& name) {
  std::size_t value = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, value);
  const bool is_number = error == std::errc() && stop == end && std::to_string(value) == name;
  return is_number ? std::optional(value) : std::nullopt;
}

/// Brings parameters that are known by numbers into their order.
void sort_by_number(ImportSource& source) {
  for (const SourceParameter& parameter : source.parameters) {
    if (number_in(parameter.name).value_or(source.parameters.size()) < source.parameters.size())
      continue;
    throw CheckpointError(
        fmt::format("a list of names needs a source whose parameters have an order: the numbers 0 "
                    "to {} for names, or a sidecar; but it has '{}'",
                    source.parameters.size() - 1, parameter.name));
  }
  std::ranges::sort(source.parameters, {},
                    [](const SourceParameter& p) { return *number_in(p.name); });
}

std::vector<std::string> final_names(ImportSource& source, const PlanOptions& options) {
  std::vector<std::string> names = options.names;
  if (!names.empty()) {
    if (!source.has_order) sort_by_number(source);
    if (names.size() != source.parameters.size()) {
      throw CheckpointError(fmt::format("there are {} names for {} parameters", names.size(),
                                        source.parameters.size()));
    }
  } else {
    for (const SourceParameter& p : source.parameters) names.push_back(p.name);
  }
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (name.empty()) throw CheckpointError("a parameter has an empty name");
    if (!layout::is_utf8(name)) {  // a list of names, or a pattern that cuts one, may hold it
      throw CheckpointError(
          fmt::format("the name '{}' of a parameter isn't UTF-8", layout::in_ascii(name)));
    }
    if (!seen.insert(name).second)
      throw CheckpointError(fmt::format("two parameters have the name '{}'", name));
  }
  return names;
}

std::int64_t agreed_step(const ImportSource& source, const PlanOptions& options) {
  std::vector<SourceStep> steps = source.steps;
  if (options.step) steps.push_back({*options.step, "--step"});
  if (steps.empty())
    throw ConfigError("the source doesn't tell the step; say --step N, the steps that were taken");
  for (const SourceStep& other : steps) {
    if (other.step == steps.front().step) continue;
    throw CheckpointError(
        fmt::format("the step of {} is {}, but that of {} is {}: shardmix has one clock for all "
                    "parameters, since the bias corrections follow from it",
                    steps.front().where, steps.front().step, other.where, other.step));
  }
  if (steps.front().step < 1)
    throw CheckpointError("the step is 0: there is nothing to go on from, begin a new run");
  return steps.front().step;
}

/// The rule's name; where nobody tells it, what the states speak of.
std::string rule_name(const ImportSource& source, const PlanOptions& options) {
  if (source.rule && options.rule && *source.rule != *options.rule) {
    throw ConfigError(fmt::format("--rule is {}, but the source says that it is of {}",
                                  *options.rule, *source.rule));
  }
  if (source.rule || options.rule) {
    const std::string name = source.rule.value_or(options.rule.value_or(""));
    (void)rule_named(name);
    return name;
  }
  const bool has_m2 = std::ranges::any_of(
      source.parameters, [](const SourceParameter& p) { return p.states.contains("m2"); });
  return has_m2 ? "ademamix" : "adamw";
}

/// The states besides master that the rule keeps, in a checkpoint's order.
std::vector<std::string> moments_of(const Rule& rule) {
  const RuleStates states = states_of(rule);
  std::vector<std::string> names;
  if (states.m1) names.emplace_back("m1");
  if (states.m2) names.emplace_back("m2");
  if (states.v) names.emplace_back("v");
  return names;
}

std::vector<std::string> agreed_moments(const std::string& rule, const std::vector<Rule>& groups) {
  const std::vector<std::string> moments =
      moments_of(groups.empty() ? rule_named(rule) : groups.front());
  for (const Rule& group : groups) {
    if (moments_of(group) != moments) {
      throw CheckpointError(
          "one group of parameters keeps m1 and another, with beta1 0, doesn't: shardmix keeps it "
          "for all or for none");
    }
  }
  return moments;
}

/// Makes the plan's parameters, one after the other.
class Planner {
 public:
  Planner(ImportPlan& plan, std::string rule, std::vector<std::string> moments,
          const PlanOptions& options)
      : plan_(plan), rule_(std::move(rule)), moments_(std::move(moments)), options_(options) {}

  void add(const SourceParameter& source, const std::string& name) {
    PlannedParameter planned{.parameter = {.name = name, .trainable = source.trainable},
                             .source_name = source.name,
                             .group = source.group};
    if (!take_moments(source, planned)) return;
    take_weights(source, planned);
    require_shapes(source, planned);
    plan_.info.parameters.push_back(planned.parameter);
    plan_.parameters.push_back(std::move(planned));
  }

  void warn() {
    const auto add = [&](const std::vector<std::string>& names, std::string_view what) {
      if (!names.empty())
        plan_.warnings.push_back(fmt::format(fmt::runtime(what), names.size(), some_of(names)));
    };
    add(rounded_,
        "{} parameters have no master weights: these start from weights that were rounded: {}");
    add(zeros_,
        "{} parameters have no moments: these start at zero, though bias corrections go "
        "on from the step: {}");
    add(frozen_, "{} parameters have no moments, and are stored as frozen: {}");
    add(skipped_, "{} parameters have no moments, and are left out: {}");
    add(plan_.source.unused, "{} tensors belong to no parameter, and are left out: {}");
  }

 private:
  void take_weights(const SourceParameter& source, PlannedParameter& planned) {
    const auto master = source.states.find(std::string(master_name));
    const bool has_master = master != source.states.end();
    if (!has_master && !source.weight) {
      throw CheckpointError(
          fmt::format("the parameter '{}' has neither weights nor master weights", source.name));
    }
    if (source.weight) require_type(*source.weight);
    const DType stored = source.weight ? *dtype_of(source.weight->tensor.type) : fp32;
    planned.parameter.dtype = source.dtype.value_or(stored);
    if (has_master && source.weight && stored == fp32) {
      throw CheckpointError(fmt::format(
          "the parameter '{}' has weights in fp32 and master weights; which of them are right?",
          source.name));
    }
    const SourceTensor& chosen = has_master ? master->second : *source.weight;
    planned.tensors.emplace(master_name, chosen);
    if (planned.parameter.dtype != fp32 && chosen.tensor.type != safetensors_f32)
      rounded_.push_back(planned.parameter.name);
    planned.parameter.shape = (source.weight ? *source.weight : chosen).tensor.shape;
  }

  /// Whether the parameter stays.
  bool take_moments(const SourceParameter& source, PlannedParameter& planned) {
    std::vector<std::string> missing = moments_;
    for (const auto& [state, tensor] : source.states) {
      if (state == master_name) continue;
      if (std::erase(missing, state) == 0) {
        throw CheckpointError(fmt::format("the parameter '{}' has {}, which {} doesn't keep",
                                          source.name, state, rule_));
      }
      planned.tensors.emplace(state, tensor);
    }
    if (!source.trainable && missing.size() < moments_.size()) {
      throw CheckpointError(
          fmt::format("the parameter '{}' is frozen, but has moments", source.name));
    }
    if (missing.empty() || !source.trainable) return true;
    if (missing.size() < moments_.size()) {
      throw CheckpointError(fmt::format("the parameter '{}' has no {}, but other moments",
                                        source.name, fmt::join(missing, ", ")));
    }
    return stays_without_moments(planned);
  }

  bool stays_without_moments(PlannedParameter& planned) {
    const std::string& name = planned.parameter.name;
    switch (options_.without_moments) {
      case WithoutMoments::refuse:
        throw CheckpointError(fmt::format(
            "the parameter '{}' has weights, but no moments; say --without-moments frozen if such "
            "ones aren't trained, zeros if they start now, skip to leave them out",
            name));
      case WithoutMoments::frozen:
        planned.parameter.trainable = false;
        frozen_.push_back(name);
        return true;
      case WithoutMoments::zeros:
        zeros_.push_back(name);
        return true;
      case WithoutMoments::skip:
        skipped_.push_back(name);
        return false;
    }
    return false;
  }

  void require_shapes(const SourceParameter& source, const PlannedParameter& planned) const {
    for (const auto& [state, tensor] : planned.tensors) {
      require_type(tensor);
      if (tensor.tensor.shape == planned.parameter.shape) continue;
      throw CheckpointError(fmt::format(
          "the parameter '{}' has weights of shape ({}), but {} of shape ({})", source.name,
          fmt::join(planned.parameter.shape, ", "), state, fmt::join(tensor.tensor.shape, ", ")));
    }
  }

  ImportPlan& plan_;
  std::string rule_;
  std::vector<std::string> moments_;
  const PlanOptions& options_;
  std::vector<std::string> rounded_;
  std::vector<std::string> zeros_;
  std::vector<std::string> frozen_;
  std::vector<std::string> skipped_;
};

Clocks clocks_of(const ImportSource& source, std::int64_t step, bool has_m2) {
  Clocks clocks{.step = step, .updates = source.updates.value_or(step)};
  clocks.slow_step = has_m2 ? source.slow_step.value_or(clocks.updates) : 0;
  if (clocks.updates < 1 || clocks.updates > step || clocks.slow_step > clocks.updates) {
    throw CheckpointError(
        fmt::format("the clocks are impossible: step {}, updates {}, slow step {}", step,
                    clocks.updates, clocks.slow_step));
  }
  return clocks;
}

std::string trainer_state(const ImportSource& source) {
  std::vector<std::string> files;
  for (const SourceFile& file : source.files) files.push_back(file.path.filename().string());
  const nlohmann::ordered_json json{{"imported_from", source.origin}, {"files", files}};
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

ImportPlan plan_import(ImportSource source, const PlanOptions& options) {
  if (source.parameters.empty()) throw CheckpointError("there is no parameter to import");
  const std::vector<std::string> names = final_names(source, options);
  const std::string rule = rule_name(source, options);
  const std::vector<std::string> moments = agreed_moments(rule, source.groups);
  const std::int64_t step = agreed_step(source, options);
  ImportPlan plan{.source = std::move(source)};
  Planner planner(plan, rule, moments, options);
  for (std::size_t i = 0; i < names.size(); ++i) planner.add(plan.source.parameters[i], names[i]);
  planner.warn();
  CheckpointInfo& info = plan.info;
  if (std::ranges::none_of(info.parameters, &CheckpointParameter::trainable))
    throw CheckpointError("no parameter has moments: weights alone are no state of an optimizer");
  info.created = time_of_creation();
  info.rule = rule;
  info.rule_json = plan.source.groups.empty() ? "{}" : json_of(plan.source.groups.front()).dump();
  info.clocks = clocks_of(plan.source, step, std::ranges::count(moments, "m2") > 0);
  info.states.emplace_back(master_name);
  info.states.insert(info.states.end(), moments.begin(), moments.end());
  info.trainer_state = trainer_state(plan.source);
  return plan;
}

std::vector<std::string> read_names(const fs::path& path) {
  const std::string text = read_text(path, most_names_bytes);
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.find('\0') != std::string::npos) {
      throw CheckpointError(fmt::format("line {} of '{}' is no name: expected one on each line",
                                        names.size() + 1, path.string()));
    }
    names.push_back(std::move(line));
    begin = end + 1;
  }
  if (names.empty()) throw CheckpointError(fmt::format("'{}' has no names", path.string()));
  return names;
}

}  // namespace shardmix::checkpoint
