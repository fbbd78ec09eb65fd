#include <fmt/format.h>

#include <set>

#include "checkpoint/export_formats.hpp"
#include "checkpoint/hdf5_file.hpp"
#include "checkpoint/parameter_tree.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

void require_fit(const CheckpointInfo& info, const std::vector<ExportArray>& arrays) {
  std::set<std::string> paths;
  for (const ExportArray& array : arrays)
    paths.insert(array_path(info.parameters[array.parameter], array.state));
  for (const ExportArray& array : arrays) {
    const std::string unfit = why_unfit(info.parameters[array.parameter], paths);
    if (!unfit.empty())
      throw CheckpointError(fmt::format("{}; export to safetensors instead", unfit));
  }
}

}  // namespace

void begin_hdf5(const std::filesystem::path& path, const CheckpointInfo& info,
                std::vector<ExportArray>& arrays) {
  require_fit(info, arrays);
  Hdf5File file = Hdf5File::create(path);
  ParameterTree tree(file, info, "shardmix export");
  for (ExportArray& array : arrays) {
    const CheckpointParameter& parameter = info.parameters[array.parameter];
    tree.make_group(group_path(parameter));
    array.offset = file.make_dataset(array_path(parameter, array.state).c_str(), H5T_NATIVE_FLOAT,
                                     {parameter.shape.begin(), parameter.shape.end()})
                       .value_or(0);
  }
  file.close();
}

}  // namespace shardmix::checkpoint
