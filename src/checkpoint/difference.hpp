#pragma once

/// What differs between two checkpoints, whatever number of ranks wrote either.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// Something that the manifests tell differently.
struct FieldDifference {
  std::string name = {};  ///< "step", "rule", "hyper_parameters.lr.peak", "parameter 'x'"
  std::string a = {};     ///< "-" where it isn't there
  std::string b = {};
};

/// A state of a parameter that both have, with values that differ.
struct ArrayDifference {
  std::string parameter = {};
  std::string state = {};
  std::int64_t elements = 0;
  std::int64_t different = 0;  ///< elements whose bits differ (so 0 and -0 do)
  double max_absolute = 0.0;   ///< |a - b|; infinite where either isn't finite
  double max_relative = 0.0;   ///< |a - b| / max(|a|, |b|)
};

struct CheckpointDifference {
  CheckpointInfo a = {};
  CheckpointInfo b = {};
  std::vector<FieldDifference> fields = {};
  std::vector<ArrayDifference> arrays = {};  ///< the largest relative difference first
  std::int64_t arrays_compared = 0;
  std::int64_t elements_compared = 0;

  [[nodiscard]] bool is_empty() const noexcept { return fields.empty() && arrays.empty(); }
};

/// Compares two checkpoints (or the newest ones of two runs) without their names, dates, memory and
/// world sizes. Both are verified on the way; memory doesn't grow with the values. Throws
/// CheckpointError.
[[nodiscard]] CheckpointDifference compare_checkpoints(const std::filesystem::path& a,
                                                       const std::filesystem::path& b,
                                                       const CheckpointProgress& progress = {});

}  // namespace shardmix::checkpoint
