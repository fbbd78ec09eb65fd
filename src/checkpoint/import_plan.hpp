#pragma once

/// The plan of an import: which tensor becomes which state of which parameter, all of it compared
/// and found to fit.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/import_source.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// What becomes of parameters that have weights, but no moments.
enum class WithoutMoments : std::uint8_t {
  refuse,
  frozen,  ///< they are stored as frozen
  zeros,   ///< m1, m2 and v start at zero
  skip     ///< they are left out
};

struct PlanOptions {
  std::optional<std::string> rule = std::nullopt;  ///< where the source doesn't say
  std::optional<std::int64_t> step = std::nullopt;
  std::vector<std::string> names =
      {};  ///< of all parameters, in the source's order; empty: its own
  WithoutMoments without_moments = WithoutMoments::refuse;
};

/// A parameter as the checkpoint will have it, and where its values come from.
struct PlannedParameter {
  CheckpointParameter parameter = {};
  std::string source_name = {};
  std::size_t group = 0;
  /// By state, "master" for the weights; a state that isn't here starts at zero.
  std::map<std::string, SourceTensor> tensors = {};
};

struct ImportPlan {
  ImportSource source = {};
  CheckpointInfo info = {};  ///< all but what the files will be
  std::vector<PlannedParameter> parameters = {};
  std::vector<std::string> warnings = {};
};

/// Throws CheckpointError where something is missing, contradicts itself or could mean two things,
/// and ConfigError where an option is missing or doesn't fit.
[[nodiscard]] ImportPlan plan_import(ImportSource source, const PlanOptions& options);

/// Names from a file, one a line. Throws CheckpointError, naming the line.
[[nodiscard]] std::vector<std::string> read_names(const std::filesystem::path& path);

}  // namespace shardmix::checkpoint
