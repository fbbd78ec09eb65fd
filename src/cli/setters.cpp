#include "cli/setters.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <system_error>
#include <type_traits>

#include "shardmix/error.hpp"

namespace shardmix::cli {

template <class Number>
Number parse_number(const std::string& option, const std::string& text) {
  constexpr std::string_view kind = std::is_floating_point_v<Number> ? "a number"
                                    : std::is_signed_v<Number>       ? "a whole number"
                                                               : "a whole number of 0 or more";
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range) {
    throw ConfigError(fmt::format("--{} is '{}', which is too large", option, text));
  }
  if (error != std::errc() || stop != end) {
    throw ConfigError(fmt::format("--{} is '{}', but must be {}", option, text, kind));
  }
  return value;
}

template int parse_number<int>(const std::string&, const std::string&);
template std::int64_t parse_number<std::int64_t>(const std::string&, const std::string&);
template std::uint64_t parse_number<std::uint64_t>(const std::string&, const std::string&);
template double parse_number<double>(const std::string&, const std::string&);

void throw_no_choice(const std::string& option, const std::string& found,
                     const std::vector<std::string_view>& choices) {
  throw ConfigError(
      fmt::format("--{} is '{}', but must be one of {}", option, found, fmt::join(choices, ", ")));
}

Option list(std::string name, std::string value, std::string help,
            std::vector<std::string>& target) {
  return {std::move(name), std::move(value), std::move(help), [&target](const std::string& text) {
            target.clear();
            for (std::size_t begin = 0; begin <= text.size();) {
              const std::size_t end = std::min(text.find(',', begin), text.size());
              target.push_back(text.substr(begin, end - begin));
              begin = end + 1;
            }
          }};
}

Option flag(std::string name, std::string help, bool& target) {
  return {std::move(name), "", std::move(help), [&target](const std::string&) { target = true; }};
}

Option collectives(std::string name, std::string& target) {
  return choice<std::string>(
      std::move(name),
      "how gradients and parameters travel: auto, the best that the machine and the placement of "
      "ranks allow; shared, memory of one node; hierarchical, shared on each node and MPI (NCCL "
      "between GPUs) between nodes; mpi; nccl, between GPUs",
      target,
      {{"auto", "auto"},
       {"shared", "shared"},
       {"hierarchical", "hierarchical"},
       {"mpi", "mpi"},
       {"nccl", "nccl"}});
}

}  // namespace shardmix::cli
