#pragma once

/// A checkpoint as one file that other programs read.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

enum class ExportFormat : std::uint8_t { hdf5, safetensors };

struct ExportOptions {
  ExportFormat format = ExportFormat::hdf5;
  std::vector<std::string> states = {};  ///< of those in the checkpoint; empty: all of them
  bool may_replace = false;              ///< a file that is there already
};

struct ExportResult {
  CheckpointInfo info = {};
  std::int64_t arrays = 0;
  std::int64_t bytes = 0;  ///< of the file
};

/// Writes the values of a checkpoint (or of the newest one in a run's directory) into one file,
/// verifying the checksum of each block read. The file gets its name when it is complete and
/// synced. Throws CheckpointError, and ConfigError where the options don't fit the checkpoint.
ExportResult export_checkpoint(const std::filesystem::path& checkpoint,
                               const std::filesystem::path& output, const ExportOptions& options,
                               const CheckpointProgress& progress = {});

}  // namespace shardmix::checkpoint
