#pragma once

#include <optional>
#include <string>

#include "checkpoint/import_plan.hpp"

namespace shardmix::cli {

/// What becomes what, as a page for people. `written` is what the new checkpoint's manifest says;
/// unset where none was written.
[[nodiscard]] std::string import_text(const checkpoint::ImportPlan& plan,
                                      const std::optional<CheckpointInfo>& written);

/// The same as one JSON object for programs.
[[nodiscard]] std::string import_json(const checkpoint::ImportPlan& plan,
                                      const std::optional<CheckpointInfo>& written);

}  // namespace shardmix::cli
