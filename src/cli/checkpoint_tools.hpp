#pragma once

/// The tools of `shardmix checkpoint`: a file each. Each takes the arguments after its name, prints
/// and returns the program's exit code.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.hpp"
#include "cli/options.hpp"

namespace shardmix::cli {

[[nodiscard]] int inspect_tool(const Arguments& arguments);
[[nodiscard]] int verify_tool(const Arguments& arguments);
[[nodiscard]] int diff_tool(const Arguments& arguments);
[[nodiscard]] int export_tool(const Arguments& arguments);
[[nodiscard]] int prune_tool(const Arguments& arguments);
[[nodiscard]] int reshard_tool(const Arguments& arguments);

struct Tool {
  std::string_view name;
  std::string_view help;   ///< "{}" stands for the options
  std::size_t paths;       ///< as many as it takes
  std::string_view needs;  ///< which: "a run's directory"
};

/// Reads a tool's options and paths; or prints its help and returns nothing. Throws ConfigError
/// where the number of paths is wrong.
[[nodiscard]] std::optional<std::vector<std::string>> read_paths(const Tool& tool,
                                                                 const Arguments& arguments,
                                                                 const OptionGroup& options);

}  // namespace shardmix::cli
