#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <nlohmann/json.hpp>

#include "checkpoint/difference.hpp"
#include "cli/checkpoint_tools.hpp"
#include "cli/progress_line.hpp"
#include "cli/setters.hpp"

namespace shardmix::cli {
namespace {

using checkpoint::ArrayDifference;
using checkpoint::CheckpointDifference;
using checkpoint::FieldDifference;
using Json = nlohmann::ordered_json;

/// As of diff(1) and cmp(1), where 1 says that something differs.
constexpr int exit_trouble = 2;

constexpr Tool diff{.name = "diff",
                    .help = R"(Usage: shardmix checkpoint diff A B [--top N] [--json]

Tells what differs between two checkpoints: rule, hyper-parameters, clocks, the trainer's state,
parameters; and of the values that both have, how many elements have other bits, and the largest
absolute and relative difference, |a - b| / max(|a|, |b|), of each state of each parameter. A and B
are directories of checkpoints, or of runs, for their newest one. The number of ranks that wrote them is
of no importance, nor are dates. The checksums of all that is compared are verified.

{}
Examples:
  shardmix checkpoint diff run/step_000001000 run/step_000002000
  shardmix checkpoint diff on-2-ranks on-8-ranks && echo the same in every bit

Exit codes: 0 equal in every bit; 1 something differs; 2 it couldn't be told: a checkpoint is missing or
damaged, or an option makes no sense.
)",
                    .paths = 2,
                    .needs = "two checkpoints' or runs' directories"};

/// Long texts make no table.
std::string shortened(const std::string& text) {
  constexpr std::size_t most = 36;
  return text.size() <= most ? text : text.substr(0, most - 3) + "...";
}

std::string fields_text(const std::vector<FieldDifference>& fields) {
  std::string text = fmt::format("\n{:<36} {:<36} {}\n", "", "a", "b");
  for (const FieldDifference& field : fields) {
    text += fmt::format("{:<36} {:<36} {}\n", field.name, shortened(field.a), shortened(field.b));
  }
  return text;
}

std::string arrays_text(const std::vector<ArrayDifference>& arrays, std::size_t top) {
  const std::size_t shown = top == 0 ? arrays.size() : std::min(top, arrays.size());
  std::string text = fmt::format("\n{:<36} {:<7} {:>12} {:>12} {:>10} {:>10}\n", "parameter",
                                 "state", "elements", "different", "max abs", "max rel");
  for (std::size_t i = 0; i < shown; ++i) {
    const ArrayDifference& array = arrays[i];
    text += fmt::format("{:<36} {:<7} {:>12} {:>12} {:>10.3g} {:>10.3g}\n", array.parameter,
                        array.state, array.elements, array.different, array.max_absolute,
                        array.max_relative);
  }
  if (shown < arrays.size())
    text += fmt::format("and {} more; --top 0 shows all\n", arrays.size() - shown);
  return text;
}

std::string side_text(const char* side, const CheckpointInfo& info) {
  return fmt::format("{}  {}, step {}, from {} rank(s)\n", side, info.directory.string(),
                     info.clocks.step, info.world_size);
}

std::string text_of(const CheckpointDifference& difference, std::size_t top) {
  std::string text = side_text("a", difference.a) + side_text("b", difference.b);
  if (!difference.fields.empty()) text += fields_text(difference.fields);
  if (!difference.arrays.empty()) text += arrays_text(difference.arrays, top);
  return text + fmt::format("\n{}{} of {} arrays of values differ, {} elements compared\n",
                            difference.is_empty() ? "equal in every bit: " : "",
                            difference.arrays.size(), difference.arrays_compared,
                            difference.elements_compared);
}

/// JSON has no infinity.
Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

std::string json_of(const CheckpointDifference& difference) {
  Json fields = Json::array();
  for (const FieldDifference& field : difference.fields)
    fields.push_back({{"name", field.name}, {"a", field.a}, {"b", field.b}});
  Json arrays = Json::array();
  for (const ArrayDifference& array : difference.arrays) {
    arrays.push_back({{"parameter", array.parameter},
                      {"state", array.state},
                      {"elements", array.elements},
                      {"different", array.different},
                      {"max_absolute", number_or_null(array.max_absolute)},
                      {"max_relative", number_or_null(array.max_relative)}});
  }
  const Json json{{"a", difference.a.directory.string()},
                  {"b", difference.b.directory.string()},
                  {"equal", difference.is_empty()},
                  {"fields", std::move(fields)},
                  {"arrays", std::move(arrays)},
                  {"arrays_compared", difference.arrays_compared},
                  {"elements_compared", difference.elements_compared}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

CheckpointDifference compare_shown(const std::string& a, const std::string& b) {
  ProgressLine line("comparing");
  return checkpoint::compare_checkpoints(a, b, line.callback());
}

}  // namespace

int diff_tool(const Arguments& arguments) {
  std::uint64_t top = 20;
  bool json = false;
  const OptionGroup options{
      .title = "Options",
      .options = {number("top", "N",
                         "rows of the table of values, the largest relative difference "
                         "first; 0: all",
                         top),
                  flag("json",
                       "print all of it as one JSON object; an infinite difference, where "
                       "either value isn't finite, is null",
                       json)}};
  const auto paths = read_paths(diff, arguments, options);
  if (!paths) return 0;
  try {
    const CheckpointDifference difference = compare_shown(paths->at(0), paths->at(1));
    print(json ? json_of(difference) : text_of(difference, top));
    return difference.is_empty() ? 0 : 1;
  } catch (const std::exception& error) {
    complain(error.what());
    return exit_trouble;
  }
}

}  // namespace shardmix::cli
