#include <fmt/format.h>

#include <set>
#include <string_view>

#include "checkpoint/export_formats.hpp"
#include "checkpoint/hdf5_file.hpp"
#include "shardmix/error.hpp"
#include "shardmix/version.hpp"

namespace shardmix::checkpoint {
namespace {

/// HDF5 takes "/" for a step into a group, skips "." and empty parts, and ends names at a NUL.
void require_path(const std::string& name) {
  bool is_path = name.find('\0') == std::string::npos;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = std::string_view(name).substr(begin, end - begin);
    is_path = is_path && !part.empty() && part != ".";
    begin = end + 1;
  }
  if (is_path) return;
  throw CheckpointError(fmt::format(
      "HDF5 can't have the name of a parameter in which a part between slashes is empty "
      "or '.', or with a zero byte; export to safetensors instead: '{}'",
      name));
}

/// Makes the groups on the way to a dataset that aren't there yet. A name may lie below another
/// one's group, but not below its dataset.
void make_groups(Hdf5File& file, std::set<std::string>& groups,
                 const std::set<std::string>& datasets, const std::string& path) {
  for (std::size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    const std::string group = path.substr(0, slash);
    if (datasets.contains(group)) {
      throw CheckpointError(
          fmt::format("'{}' would be both an array and a group of arrays in HDF5, by the names of "
                      "two parameters; export to safetensors instead",
                      group));
    }
    if (groups.insert(group).second) file.make_group(group.c_str());
  }
}

}  // namespace

void begin_hdf5(const std::filesystem::path& path, const CheckpointInfo& info,
                std::vector<ExportArray>& arrays) {
  std::set<std::string> datasets;
  const auto path_of = [&](const ExportArray& array) {
    return fmt::format("/parameters/{}/{}", info.parameters[array.parameter].name, array.state);
  };
  for (const ExportArray& array : arrays) {
    require_path(info.parameters[array.parameter].name);
    datasets.insert(path_of(array));
  }
  Hdf5File file = Hdf5File::create(path);
  file.write_attribute("format", "shardmix export");
  file.write_attribute("format_version", 1);
  file.write_attribute("shardmix_version", info.shardmix_version);
  file.write_attribute("step", info.clocks.step);
  file.write_attribute("updates", info.clocks.updates);
  file.write_attribute("slow_step", info.clocks.slow_step);
  file.write_attribute("rule", info.rule);
  file.write_attribute("hyper_parameters", info.rule_json);
  file.make_group("/parameters");
  std::set<std::string> groups{"/parameters"};
  for (ExportArray& array : arrays) {
    const std::string name = path_of(array);
    make_groups(file, groups, datasets, name);
    const std::vector<std::int64_t>& shape = info.parameters[array.parameter].shape;
    array.offset =
        file.make_dataset(name.c_str(), H5T_NATIVE_FLOAT, {shape.begin(), shape.end()}).value_or(0);
  }
  file.close();
}

}  // namespace shardmix::checkpoint
