#pragma once

/// Names of parameters go into JSON, which is UTF-8.

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace shardmix::layout {

/// As the Unicode standard has it: no longer form than needed, no halves of pairs, nothing beyond
/// U+10FFFF.
[[nodiscard]] inline bool is_utf8(std::string_view text) noexcept {
  constexpr std::array<char32_t, 4> least{0, 0x80, 0x800, 0x10000};
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t more = lead < 0x80         ? 0
                             : lead >> 5 == 0x06 ? 1
                             : lead >> 4 == 0x0E ? 2
                             : lead >> 3 == 0x1E ? 3
                                                 : text.size();
    if (text.size() - i <= more) return false;
    char32_t value = more == 0 ? lead : lead & (0x3Fu >> more);
    for (std::size_t k = 1; k <= more; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if (byte >> 6 != 2) return false;
      value = value << 6 | (byte & 0x3Fu);
    }
    if (value < least[more] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
      return false;
    i += 1 + more;
  }
  return true;
}

/// "?" in the place of each byte that isn't printable ASCII.
[[nodiscard]] inline std::string in_ascii(std::string_view text) {
  std::string shown(text);
  for (char& c : shown) c = c >= ' ' && c <= '~' ? c : '?';
  return shown;
}

}  // namespace shardmix::layout
