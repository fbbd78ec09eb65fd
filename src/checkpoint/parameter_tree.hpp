#pragma once

/// What the HDF5 files for people, exports and views, have in common: the arrays are
/// /parameters/<name>/<state>, and attributes of the file say of what they are. A "/" in a
/// parameter's name is a step into a group.

#include <set>
#include <string>
#include <string_view>

#include "checkpoint/hdf5_file.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// "/parameters/<name>", the group of a parameter's arrays.
[[nodiscard]] std::string group_path(const CheckpointParameter& parameter);
/// "/parameters/<name>/<state>".
[[nodiscard]] std::string array_path(const CheckpointParameter& parameter, std::string_view state);

/// Why HDF5 can't have this parameter's arrays beside the others; "" where it can. `arrays` are the
/// paths of all of them.
[[nodiscard]] std::string why_unfit(const CheckpointParameter& parameter,
                                    const std::set<std::string>& arrays);

/// Writes the groups and the attributes of the file.
class ParameterTree {
 public:
  /// `file` must outlive this. `format` is what the file calls itself.
  ParameterTree(Hdf5File& file, const CheckpointInfo& info, const std::string& format);

  /// Makes the group, and those above it that aren't there yet.
  void make_group(const std::string& path);

 private:
  Hdf5File& file_;
  std::set<std::string> groups_;
};

}  // namespace shardmix::checkpoint
