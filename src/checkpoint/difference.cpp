#include "checkpoint/difference.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "checkpoint/run_directory.hpp"
#include "checkpoint/values.hpp"
#include "optimizer/sharded_state.hpp"

namespace shardmix::checkpoint {
namespace {

using Json = nlohmann::ordered_json;
/// What a manifest tells: names and values.
using Fields = std::vector<std::pair<std::string, std::string>>;

void add_json(Fields& fields, const std::string& name, const Json& json) {
  if (json.is_object() && !json.empty()) {
    for (const auto& [key, value] : json.items()) add_json(fields, name + '.' + key, value);
  } else {
    fields.emplace_back(name, json.is_string() ? json.get<std::string>() : json.dump());
  }
}

/// Key by key where the text is a JSON object.
void add_text(Fields& fields, const std::string& name, const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) {
    add_json(fields, name, json);
  } else {
    fields.emplace_back(name, text);
  }
}

Fields fields_of(const CheckpointInfo& info) {
  Fields fields{{"rule", info.rule},
                {"step", std::to_string(info.clocks.step)},
                {"updates", std::to_string(info.clocks.updates)},
                {"slow_step", std::to_string(info.clocks.slow_step)},
                {"loss_scale", fmt::format("{}", info.loss_scale)},
                {"states", fmt::format("{}", fmt::join(info.states, ", "))}};
  if (info.usable_steps) fields.emplace_back("usable_steps", std::to_string(*info.usable_steps));
  add_text(fields, "hyper_parameters", info.rule_json);
  add_text(fields, "trainer_state", info.trainer_state);
  for (const CheckpointParameter& p : info.parameters) {
    fields.emplace_back(fmt::format("parameter '{}'", p.name),
                        fmt::format("{} ({}){}", name_of(p.dtype), fmt::join(p.shape, ", "),
                                    p.trainable ? "" : ", frozen"));
  }
  return fields;
}

std::vector<FieldDifference> compare_fields(const Fields& a, const Fields& b) {
  std::map<std::string, std::string> rest(b.begin(), b.end());
  std::vector<FieldDifference> differences;
  for (const auto& [name, value] : a) {
    const auto other = rest.find(name);
    if (other == rest.end()) {
      differences.push_back({name, value, "-"});
      continue;
    }
    if (other->second != value) differences.push_back({name, value, other->second});
    rest.erase(other);
  }
  for (const auto& [name, value] : b) {
    if (rest.contains(name)) differences.push_back({name, "-", value});
  }
  return differences;
}

void compare_values(ArrayDifference& array, std::span<const float> a, std::span<const float> b) {
  if (std::memcmp(a.data(), b.data(), a.size_bytes()) == 0) return;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i])) continue;
    ++array.different;
    const double x = a[i];
    const double y = b[i];
    const bool is_finite = std::isfinite(x) && std::isfinite(y);
    const double absolute = is_finite ? std::abs(x - y) : infinity;
    const double largest = std::max(std::abs(x), std::abs(y));
    const double relative = !is_finite ? infinity : absolute == 0.0 ? 0.0 : absolute / largest;
    array.max_absolute = std::max(array.max_absolute, absolute);
    array.max_relative = std::max(array.max_relative, relative);
  }
}

/// Where values of both are compared: b's number and the results by state, for each parameter of a.
class ValueComparison {
 public:
  ValueComparison(const OpenCheckpoint& a, const OpenCheckpoint& b)
      : a_(a), reader_(b), in_b_(a.info.parameters.size()) {
    std::unordered_map<std::string, std::size_t> numbers;
    for (std::size_t i = 0; i < b.info.parameters.size(); ++i)
      numbers[b.info.parameters[i].name] = i;
    for (const optimizer::State state : optimizer::all_states) states_.emplace_back(name_of(state));
    for (std::size_t i = 0; i < a.info.parameters.size(); ++i) {
      const CheckpointParameter& own = a.info.parameters[i];
      const auto found = numbers.find(own.name);
      if (found == numbers.end()) continue;
      const CheckpointParameter& other = b.info.parameters[found->second];
      if (own.shape != other.shape) continue;
      in_b_[i] = found->second;
      for (const std::string& state : states_) {
        if (has_values(a.info, own, state) && has_values(b.info, other, state))
          results_[{i, state}] = {
              .parameter = own.name, .state = state, .elements = own.elements()};
      }
    }
  }

  void run(const std::function<void(std::int64_t)>& progress) {
    std::vector<float> other(static_cast<std::size_t>(chunk_bytes / 4 + 256));
    read_values(a_, states_,
                [&](std::size_t parameter, const std::string& state, std::int64_t offset,
                    std::span<const float> values) {
                  progress(std::ssize(values) * 4);
                  const auto found = results_.find({parameter, state});
                  if (found == results_.end()) return;
                  const std::span same = std::span(other).first(values.size());
                  reader_.read(in_b_[parameter], state, offset, same);
                  compare_values(found->second, values, same);
                });
  }

  void report(CheckpointDifference& difference) const {
    for (const auto& [key, array] : results_) {
      ++difference.arrays_compared;
      difference.elements_compared += array.elements;
      if (array.different > 0) difference.arrays.push_back(array);
    }
    std::ranges::stable_sort(difference.arrays, [](const auto& x, const auto& y) {
      return std::pair(x.max_relative, x.max_absolute) > std::pair(y.max_relative, y.max_absolute);
    });
  }

  [[nodiscard]] std::int64_t bytes() const { return value_bytes(a_.info, states_); }

 private:
  const OpenCheckpoint& a_;
  ValueReader reader_;
  std::vector<std::size_t> in_b_;
  std::vector<std::string> states_;
  std::map<std::pair<std::size_t, std::string>, ArrayDifference> results_;
};

}  // namespace

CheckpointDifference compare_checkpoints(const std::filesystem::path& a,
                                         const std::filesystem::path& b,
                                         const CheckpointProgress& progress) {
  const OpenCheckpoint open_a = open_alone(find_checkpoint(a));
  const OpenCheckpoint open_b = open_alone(find_checkpoint(b));
  CheckpointDifference difference{
      .a = open_a.info,
      .b = open_b.info,
      .fields = compare_fields(fields_of(open_a.info), fields_of(open_b.info))};
  ValueComparison values(open_a, open_b);
  std::int64_t total = values.bytes();
  for (const CheckpointFile& file : open_b.info.files) total += file.bytes;
  std::int64_t done = 0;
  const auto advance = [&](std::int64_t bytes) {
    done += bytes;
    if (progress) progress(done, total);
  };
  // a's values are verified as they come. b's are read in a's order, which may be any in b: so they
  // are verified first.
  for (const CheckpointFile& file : open_b.info.files)
    verify_file(open_b.info.directory, file, advance);
  values.run(advance);
  values.report(difference);
  return difference;
}

}  // namespace shardmix::checkpoint
