#include "cli/checkpoint_tools.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "shardmix/error.hpp"

namespace shardmix::cli {

std::optional<std::vector<std::string>> read_paths(const Tool& tool, const Arguments& arguments,
                                                   const OptionGroup& options) {
  std::vector<std::string> paths;
  if (parse_options(arguments, options, paths) == Request::help) {
    print(fmt::format(fmt::runtime(tool.help), describe_options(options)));
    return std::nullopt;
  }
  if (paths.size() == tool.paths) return paths;
  const std::string found =
      paths.empty() ? "nothing" : fmt::format("'{}'", fmt::join(paths, "', '"));
  throw ConfigError(fmt::format(
      "checkpoint {} needs {}, but was given {}; shardmix checkpoint {} --help tells more",
      tool.name, tool.needs, found, tool.name));
}

}  // namespace shardmix::cli
