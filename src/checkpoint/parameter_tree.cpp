#include "checkpoint/parameter_tree.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace shardmix::checkpoint {
namespace {

/// HDF5 takes "/" for a step into a group, skips "." and empty parts, and ends names at a NUL.
bool is_path(std::string_view name) {
  if (name.find('\0') != std::string_view::npos) return false;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == ".") return false;
    begin = end + 1;
  }
  return true;
}

/// "/a", "/a/b" and "/a/b/c" of "/a/b/c".
std::vector<std::string> steps_to(const std::string& path) {
  std::vector<std::string> steps;
  for (std::size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1))
    steps.push_back(path.substr(0, slash));
  steps.push_back(path);
  return steps;
}

}  // namespace

std::string group_path(const CheckpointParameter& parameter) {
  return "/parameters/" + parameter.name;
}

std::string array_path(const CheckpointParameter& parameter, std::string_view state) {
  return fmt::format("{}/{}", group_path(parameter), state);
}

std::string why_unfit(const CheckpointParameter& parameter, const std::set<std::string>& arrays) {
  if (!is_path(parameter.name)) {
    return fmt::format(
        "HDF5 can't have the name of a parameter in which a part between slashes is empty or '.', "
        "or with a zero byte: '{}'",
        parameter.name);
  }
  if (parameter.shape.size() > H5S_MAX_RANK) {
    return fmt::format("HDF5 can't have the {} extents of the parameter '{}': {} at most",
                       parameter.shape.size(), parameter.name, H5S_MAX_RANK);
  }
  // A name may lie below another one's group, but not below its array.
  for (const std::string& group : steps_to(group_path(parameter))) {
    if (arrays.contains(group)) {
      return fmt::format(
          "'{}' would be both an array and a group of arrays in HDF5, by the names of two "
          "parameters",
          group);
    }
  }
  return "";
}

ParameterTree::ParameterTree(Hdf5File& file, const CheckpointInfo& info, const std::string& format)
    : file_(file) {
  file_.write_attribute("format", format);
  file_.write_attribute("format_version", 1);
  file_.write_attribute("shardmix_version", info.shardmix_version);
  file_.write_attribute("step", info.clocks.step);
  file_.write_attribute("updates", info.clocks.updates);
  file_.write_attribute("slow_step", info.clocks.slow_step);
  file_.write_attribute("rule", info.rule);
  file_.write_attribute("hyper_parameters", info.rule_json);
  make_group("/parameters");
}

void ParameterTree::make_group(const std::string& path) {
  for (const std::string& step : steps_to(path)) {
    if (groups_.insert(step).second) file_.make_group(step.c_str());
  }
}

}  // namespace shardmix::checkpoint
