#pragma once

/// Options of the program: a table that says each one's name, meaning and where its value goes. The
/// same table reads the command line, reads a configuration file and prints the help.

#include <functional>
#include <string>
#include <vector>

namespace shardmix::cli {

/// A long option with a value, or a flag.
struct Option {
  std::string name;   ///< without dashes
  std::string value;  ///< what stands for the value in the help: "N", "FILE"; "": a flag
  std::string help;
  /// Stores the value, "" of a flag. Throws ConfigError, a sentence that names the option, for one
  /// that it can't read.
  std::function<void(const std::string&)> set;
};

struct OptionGroup {
  std::string title;
  std::vector<Option> options;
};

/// What the arguments ask for besides their values.
enum class Request { run, help };

/// Reads `arguments` (those after the command's name), and the INI file that --config names, into
/// the options. The arguments win over the file. Throws ConfigError for anything that is not in
/// `groups`.
[[nodiscard]] Request parse_options(const std::vector<std::string>& arguments,
                                    const std::vector<OptionGroup>& groups);

/// Reads the arguments of a command that also takes operands (arguments without a name, such as a
/// path), in any order, and no configuration file.
[[nodiscard]] Request parse_options(const std::vector<std::string>& arguments,
                                    const OptionGroup& group, std::vector<std::string>& operands);

/// The groups with their options, wrapped for a terminal.
[[nodiscard]] std::string describe_options(const OptionGroup& group);
[[nodiscard]] std::string describe_options(const std::vector<OptionGroup>& groups);

}  // namespace shardmix::cli
