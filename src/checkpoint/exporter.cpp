#include "checkpoint/exporter.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "checkpoint/export_formats.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/run_directory.hpp"
#include "checkpoint/values.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> chosen_states(const CheckpointInfo& info, const ExportOptions& options) {
  for (const std::string& state : options.states) {
    if (std::ranges::find(info.states, state) == info.states.end()) {
      throw ConfigError(fmt::format("'{}' holds no state '{}'; it holds {}",
                                    info.directory.string(), state, fmt::join(info.states, ", ")));
    }
    if (std::ranges::count(options.states, state) > 1)
      throw ConfigError(fmt::format("the state '{}' is asked for twice", state));
  }
  return options.states.empty() ? info.states : options.states;
}

std::vector<ExportArray> arrays_of(const CheckpointInfo& info,
                                   const std::vector<std::string>& states) {
  std::vector<ExportArray> arrays;
  for (std::size_t i = 0; i < info.parameters.size(); ++i) {
    for (const std::string& state : states) {
      if (has_values(info, info.parameters[i], state))
        arrays.push_back({.parameter = i, .state = state});
    }
  }
  return arrays;
}

void require_place(const fs::path& output, std::int64_t bytes, bool may_replace) {
  const fs::path directory = output.parent_path();
  if (!fs::is_directory(directory)) {
    throw ConfigError(fmt::format("there is no directory '{}' to write '{}' in", directory.string(),
                                  output.filename().string()));
  }
  if (!may_replace && fs::exists(fs::symlink_status(output)))
    throw ConfigError(fmt::format("'{}' is there already; --force replaces it", output.string()));
  if (const std::int64_t room = free_bytes(directory); bytes > room) {
    throw CheckpointError(fmt::format("the export takes {} bytes, but '{}' has room for {}", bytes,
                                      directory.string(), room));
  }
}

/// Fills the arrays in. Returns the file's bytes.
std::int64_t write_values(const fs::path& path, const OpenCheckpoint& checkpoint,
                          const std::vector<std::string>& states,
                          const std::vector<ExportArray>& arrays,
                          const CheckpointProgress& progress) {
  File file = File::open_to_write(path);
  std::map<std::pair<std::size_t, std::string>, std::int64_t> offsets;
  std::int64_t bytes = file.size();
  for (const ExportArray& array : arrays) {
    offsets[{array.parameter, array.state}] = array.offset;
    bytes =
        std::max(bytes, array.offset + 4 * checkpoint.info.parameters[array.parameter].elements());
  }
  file.reserve(bytes);
  std::int64_t done = 0;
  const std::int64_t total = value_bytes(checkpoint.info, states);
  read_values(checkpoint, states,
              [&](std::size_t parameter, const std::string& state, std::int64_t offset,
                  std::span<const float> values) {
                const std::int64_t begin = offsets.at({parameter, state});
                file.write(begin + 4 * offset, std::as_bytes(values));
                done += 4 * std::ssize(values);
                if (progress) progress(done, total);
              });
  file.sync();
  if (file.size() != bytes) {
    throw CheckpointError(
        fmt::format("'{}' has {} bytes after writing {}", path.string(), file.size(), bytes));
  }
  file.close();
  return bytes;
}

}  // namespace

ExportResult export_checkpoint(const fs::path& checkpoint, const fs::path& output,
                               const ExportOptions& options, const CheckpointProgress& progress) {
  const OpenCheckpoint open = open_alone(find_checkpoint(checkpoint));
  const std::vector<std::string> states = chosen_states(open.info, options);
  std::vector<ExportArray> arrays = arrays_of(open.info, states);
  const fs::path path = fs::absolute(output);
  require_place(path, value_bytes(open.info, states), options.may_replace);
  const Temporary temporary(path);
  if (options.format == ExportFormat::hdf5)
    begin_hdf5(temporary.path(), open.info, arrays);
  else
    begin_safetensors(temporary.path(), open.info, arrays);
  const std::int64_t bytes = write_values(temporary.path(), open, states, arrays, progress);
  publish_file(temporary.path(), path, options.may_replace);
  return {.info = open.info, .arrays = std::ssize(arrays), .bytes = bytes};
}

}  // namespace shardmix::checkpoint
