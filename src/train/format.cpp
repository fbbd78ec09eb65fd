#include "train/format.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

namespace shardmix::train {
namespace {

/// `value` in the first unit in which it has at most three digits before the point.
std::string scaled(double value, double base, std::span<const std::string_view> units) {
  std::size_t unit = 0;
  // 999.5 would round up to four digits.
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, decimals, units[unit]);
}

}  // namespace

std::string format_bytes(std::int64_t bytes) {
  constexpr std::array<std::string_view, 5> units{" B", " KiB", " MiB", " GiB", " TiB"};
  return scaled(static_cast<double>(bytes), 1024.0, units);
}

std::string format_count(double count) {
  constexpr std::array<std::string_view, 4> units{"", "k", "M", "G"};
  return scaled(count, 1000.0, units);
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::lround(seconds));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
}

}  // namespace shardmix::train
