#pragma once

/// Rules and schedules as JSON: what a manifest says of them.

#include <nlohmann/json.hpp>

#include "shardmix/rules.hpp"

namespace shardmix::checkpoint {

[[nodiscard]] nlohmann::ordered_json json_of(const Rule& rule);

}  // namespace shardmix::checkpoint
