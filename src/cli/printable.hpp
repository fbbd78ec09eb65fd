#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shardmix::cli {

/// A text from a file, without what a terminal would obey.
[[nodiscard]] std::string printable(const std::string& text);

/// "2 x 3", "scalar".
[[nodiscard]] std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace shardmix::cli
