#pragma once

/// What is to be imported, as its source describes it: a sidecar, or the names of tensors. Nothing
/// is known yet to fit together; plan_import() looks at that.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.hpp"
#include "shardmix/dtype.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::checkpoint {

/// A file of values, and what its sidecar promises of it.
struct SourceFile {
  std::filesystem::path path = {};
  std::int64_t bytes = 0;
  std::optional<std::uint32_t> crc32 = std::nullopt;
};

/// A tensor of one of the files.
struct SourceTensor {
  std::size_t file = 0;
  SafetensorsTensor tensor = {};
};

/// One parameter.
struct SourceParameter {
  std::string name = {};  ///< its number where no name is known
  std::optional<DType> dtype = std::nullopt;
  bool trainable = true;
  std::size_t group = 0;
  std::optional<SourceTensor> weight = std::nullopt;  ///< in the dtype that the model computed in
  std::map<std::string, SourceTensor> states = {};    ///< by "master", "m1", "m2", "v"
};

/// A step, and who says so.
struct SourceStep {
  std::int64_t step = 0;
  std::string where = {};
};

struct ImportSource {
  std::string origin = {};  ///< what wrote it, for people
  std::vector<SourceFile> files = {};
  std::optional<std::string> rule = std::nullopt;
  std::vector<Rule> groups = {};  ///< hyper-parameters of each group; empty: not known
  std::vector<SourceStep> steps = {};
  std::optional<std::int64_t> updates = std::nullopt;
  std::optional<std::int64_t> slow_step = std::nullopt;
  std::vector<SourceParameter> parameters = {};
  bool has_order = false;                ///< the parameters' order means something
  std::vector<std::string> unused = {};  ///< tensors that belong to no parameter
};

/// The step in a tensor of one element. Throws CheckpointError unless it is a whole number.
[[nodiscard]] std::int64_t step_in(const SourceFile& file, const SafetensorsTensor& tensor);

/// A step that came as a floating-point number. Throws CheckpointError unless it is whole.
[[nodiscard]] std::int64_t whole_step(double value, std::string_view what);

/// Reads the header of a file of values; a link leads to its target.
[[nodiscard]] std::pair<SourceFile, Safetensors> open_source_file(
    const std::filesystem::path& path);

/// Reads a sidecar: docs/importing.md has the format. Its files lie beside it. Throws
/// CheckpointError that names it.
[[nodiscard]] ImportSource read_sidecar(const std::filesystem::path& path);

/// How tensors are named: for each of "weight", "master", "m1", "m2", "v" and "step" the patterns,
/// in which NAME stands for the parameter's name.
using Naming = std::map<std::string, std::vector<std::string>>;

/// "m1=NAME.m1|NAME.exp_avg,v=...": what it doesn't mention keeps its default, which `text` ""
/// gives. Throws ConfigError.
[[nodiscard]] Naming naming_from(const std::string& text);

/// The default, as naming_from() reads it.
[[nodiscard]] std::string default_naming();

/// Reads the headers of safetensors files and sorts their tensors by name. Throws CheckpointError
/// where a name could mean two things.
[[nodiscard]] ImportSource match_names(const std::vector<std::filesystem::path>& files,
                                       const Naming& naming);

}  // namespace shardmix::checkpoint
