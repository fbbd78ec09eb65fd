#pragma once

/// The files of an export. Each function makes a new one with all but its values, which are fp32,
/// little-endian, in row-major order, and tells where they belong. Throws CheckpointError.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// An array to export, and where in the file its values begin.
struct ExportArray {
  std::size_t parameter = 0;
  std::string state = {};
  std::int64_t offset = 0;
};

/// Sets the arrays' offsets. /parameters/<name>/<state>, and attributes of the file.
void begin_hdf5(const std::filesystem::path& path, const CheckpointInfo& info,
                std::vector<ExportArray>& arrays);

/// Sets the arrays' offsets. <name> is the tensor of the master weights, <name>.<state> another.
void begin_safetensors(const std::filesystem::path& path, const CheckpointInfo& info,
                       std::vector<ExportArray>& arrays);

}  // namespace shardmix::checkpoint
