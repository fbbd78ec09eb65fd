#pragma once

#include <string>

#include "shardmix/checkpoints.hpp"

namespace shardmix::cli {

/// What a checkpoint holds, as a page for people.
[[nodiscard]] std::string report_text(const CheckpointInfo& info);

/// The same and every parameter, as one JSON object for programs.
[[nodiscard]] std::string report_json(const CheckpointInfo& info);

}  // namespace shardmix::cli
