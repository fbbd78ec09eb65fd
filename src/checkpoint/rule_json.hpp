#pragma once

/// Rules and schedules as JSON: what a manifest says of them.

#include <nlohmann/json.hpp>
#include <string_view>

#include "shardmix/rules.hpp"

namespace shardmix::checkpoint {

[[nodiscard]] nlohmann::ordered_json json_of(const Rule& rule);

/// The inverse; lr may also be a number, and what is missing has its default. The text may come
/// from anywhere. Throws CheckpointError that names what is wrong.
[[nodiscard]] Rule rule_from(std::string_view name, const nlohmann::json& json);

}  // namespace shardmix::checkpoint
