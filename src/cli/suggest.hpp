#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shardmix::cli {

/// "; did you mean --batch?" (with `prefix` "--") where one of `names` is close to `name`, or "".
[[nodiscard]] std::string did_you_mean(std::string_view name, const std::vector<std::string>& names,
                                       std::string_view prefix);

}  // namespace shardmix::cli
