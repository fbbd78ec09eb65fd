#pragma once

#include <string>

namespace shardmix::cli {

/// Two lines for each preset: its name and numbers, and where they are from.
[[nodiscard]] std::string preset_table();

}  // namespace shardmix::cli
