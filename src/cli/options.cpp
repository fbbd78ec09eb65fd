#include "cli/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <optional>
#include <sstream>

#include "cli/suggest.hpp"
#include "shardmix/error.hpp"

namespace shardmix::cli {
namespace {

namespace po = boost::program_options;

using Values = std::vector<std::pair<std::string, std::string>>;

po::options_description describe(const OptionGroup& group) {
  constexpr unsigned line_length = 90;
  po::options_description description(group.title, line_length, line_length / 2);
  for (const Option& option : group.options) {
    auto* value = po::value<std::string>()->value_name(option.value);
    if (option.value.empty()) value->zero_tokens();
    description.add_options()(option.name.c_str(), value, option.help.c_str());
  }
  return description;
}

po::options_description describe(const std::vector<OptionGroup>& groups) {
  po::options_description all;
  for (const OptionGroup& group : groups) all.add(describe(group));
  return all;
}

OptionGroup general_options() {
  return {
      .title = "General",
      .options = {
          {.name = "config",
           .value = "FILE",
           .help =
               "read options from FILE, a line 'name = value' each, with these names and without "
               "the dashes; options given here win",
           .set = nullptr}}};
}

std::vector<std::string> names_of(const std::vector<OptionGroup>& groups) {
  std::vector<std::string> names;
  for (const OptionGroup& group : groups) {
    for (const Option& option : group.options) names.push_back(option.name);
  }
  return names;
}

const Option& option_named(const std::vector<OptionGroup>& groups, const std::string& name) {
  for (const OptionGroup& group : groups) {
    for (const Option& option : group.options) {
      if (option.name == name) return option;
    }
  }
  throw ConfigError(fmt::format("there is no option --{}", name));
}

[[noreturn]] void throw_unknown(std::string name, const std::vector<OptionGroup>& groups) {
  name.erase(0, name.find_first_not_of('-'));
  name.erase(std::min(name.find('='), name.size()));
  throw ConfigError(
      fmt::format("there is no option --{}{}", name, did_you_mean(name, names_of(groups), "--")));
}

/// Operands have an empty name.
Values values_of(const po::parsed_options& parsed) {
  Values values;
  for (const po::option& option : parsed.options) {
    values.emplace_back(option.position_key >= 0 ? "" : option.string_key,
                        option.value.empty() ? "" : option.value.front());
  }
  return values;
}

void require_no_operands(const Values& values) {
  for (const auto& [name, value] : values) {
    if (name.empty()) {
      throw ConfigError(fmt::format(
          "'{}' is no option; every value follows its option's name, as in --text FILE", value));
    }
  }
}

bool asks_for_help(const std::vector<std::string>& arguments) {
  return std::ranges::any_of(arguments, [](const std::string& argument) {
    return argument == "--help" || argument == "-h";
  });
}

/// On a command line the last one wins, so that a script's options can be followed by one's own; in
/// a file two of a name are a mistake.
void require_each_once(const Values& values) {
  for (auto value = values.begin(); value != values.end(); ++value) {
    for (auto other = values.begin(); other != value; ++other) {
      if (other->first == value->first) {
        throw ConfigError(fmt::format("{} is there twice, as '{}' and as '{}'", value->first,
                                      other->second, value->second));
      }
    }
  }
}

Values read_arguments(const std::vector<std::string>& arguments,
                      const std::vector<OptionGroup>& groups) {
  namespace style = po::command_line_style;
  try {
    const po::options_description all = describe(groups);
    return values_of(
        po::command_line_parser(arguments)
            .options(all)
            .style(style::allow_long | style::long_allow_next | style::long_allow_adjacent)
            .run());
  } catch (const po::unknown_option& error) {
    throw_unknown(error.get_option_name(), groups);
  } catch (const po::error& error) {
    throw ConfigError(error.what());
  }
}

Values read_file(const std::string& path, const std::vector<OptionGroup>& groups) {
  std::ifstream file(path);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    throw ConfigError(
        fmt::format("the configuration file {} (--config) can't be read, or is empty", path));
  }
  try {
    Values values = values_of(po::parse_config_file(text, describe(groups)));
    require_each_once(values);
    return values;
  } catch (const po::unknown_option& error) {
    const std::string key = error.get_option_name();
    throw ConfigError(fmt::format("the configuration file {} has the unknown key '{}'{}", path, key,
                                  did_you_mean(key, names_of(groups), "")));
  } catch (const std::exception& error) {
    throw ConfigError(fmt::format("in the configuration file {}: {}", path, error.what()));
  }
}

void apply_file(const std::string& path, const std::vector<OptionGroup>& groups) {
  for (const auto& [name, value] : read_file(path, groups)) {
    try {
      option_named(groups, name).set(value);
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("in the configuration file {}: {}", path, error.what()));
    }
  }
}

}  // namespace

Request parse_options(const std::vector<std::string>& arguments,
                      const std::vector<OptionGroup>& groups) {
  if (asks_for_help(arguments)) return Request::help;
  std::vector<OptionGroup> all = groups;
  all.push_back(general_options());
  const Values values = read_arguments(arguments, all);
  require_no_operands(values);
  for (const auto& [name, value] : values) {
    if (name == "config") apply_file(value, groups);
  }
  for (const auto& [name, value] : values) {
    if (name != "config") option_named(groups, name).set(value);
  }
  return Request::run;
}

Request parse_options(const std::vector<std::string>& arguments, const OptionGroup& group,
                      std::vector<std::string>& operands) {
  if (asks_for_help(arguments)) return Request::help;
  const std::vector<OptionGroup> groups{group};
  for (const auto& [name, value] : read_arguments(arguments, groups)) {
    if (name.empty()) {
      operands.push_back(value);
    } else {
      option_named(groups, name).set(value);
    }
  }
  return Request::run;
}

std::string describe_options(const OptionGroup& group) {
  std::ostringstream text;
  text << describe(group);
  return text.str();
}

std::string describe_options(const std::vector<OptionGroup>& groups) {
  std::ostringstream text;
  for (const OptionGroup& group : groups) text << describe(group) << '\n';
  text << describe(general_options());
  return text.str();
}

}  // namespace shardmix::cli
