#pragma once

/// Makers of options: each ties a name to a variable and takes the default that the help shows from
/// the variable's present value, so that the two can't differ. An unset std::optional is "auto".

#include <fmt/format.h>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/options.hpp"

namespace shardmix::cli {

/// The text as a number. Throws ConfigError, naming the option, where it is none or doesn't fit.
template <class Number>
[[nodiscard]] Number parse_number(const std::string& option, const std::string& text);

/// Throws ConfigError that lists the choices.
[[noreturn]] void throw_no_choice(const std::string& option, const std::string& found,
                                  const std::vector<std::string_view>& choices);

template <class Number>
requires std::integral<Number> || std::floating_point<Number>
[[nodiscard]] Option number(std::string name, std::string value, std::string_view help,
                            Number& target) {
  const auto set = [name, &target](const std::string& text) {
    target = parse_number<Number>(name, text);
  };
  return {name, std::move(value), fmt::format("{} (default: {})", help, target), set};
}

/// `automatic`: what the default means.
template <class Number>
[[nodiscard]] Option number(std::string name, std::string value, std::string_view help,
                            std::optional<Number>& target, std::string_view automatic) {
  const auto set = [name, &target](const std::string& text) {
    if (text == "auto") {
      target.reset();
    } else {
      target = parse_number<Number>(name, text);
    }
  };
  return {name, std::move(value), fmt::format("{} (default: auto, {})", help, automatic), set};
}

template <class Text>
requires std::same_as<Text, std::string> || std::same_as<Text, std::filesystem::path>
[[nodiscard]] Option text(std::string name, std::string value, std::string_view help,
                          Text& target) {
  const std::string now = std::filesystem::path(target).string();
  const std::string note = now.empty() ? std::string() : fmt::format(" (default: {})", now);
  return {std::move(name), std::move(value), std::string(help) + note,
          [&target](const std::string& given) { target = given; }};
}

/// One of some named values.
template <class Value>
[[nodiscard]] Option choice(std::string name, std::string_view help, Value& target,
                            std::vector<std::pair<std::string_view, Value>> choices) {
  std::string value;
  std::string_view now;
  for (const auto& [text, meaning] : choices) {
    value += (value.empty() ? "" : "|") + std::string(text);
    if (meaning == target) now = text;
  }
  const auto set = [name, choices, &target](const std::string& given) {
    std::vector<std::string_view> names;
    for (const auto& [text, meaning] : choices) {
      if (text == given) {
        target = meaning;
        return;
      }
      names.push_back(text);
    }
    throw_no_choice(name, given, names);
  };
  return {name, value, fmt::format("{} (default: {})", help, now), set};
}

/// A list with commas.
[[nodiscard]] Option list(std::string name, std::string value, std::string help,
                          std::vector<std::string>& target);

/// An option without a value, which is true where it is there.
[[nodiscard]] Option flag(std::string name, std::string help, bool& target);

/// How buckets travel between ranks.
[[nodiscard]] Option collectives(std::string name, std::string& target);

}  // namespace shardmix::cli
