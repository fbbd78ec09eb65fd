#include "checkpoint/crc32.hpp"

#include <array>
#include <cstring>

namespace shardmix::checkpoint {
namespace {

using Table = std::array<std::uint32_t, 256>;

/// tables[k][b]: what byte b leaves behind after k zero bytes. So eight bytes take eight
/// independent look-ups.
constexpr std::array<Table, 8> make_tables() {
  constexpr std::uint32_t polynomial = 0xEDB88320;
  std::array<Table, 8> tables{};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t value = b;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? polynomial : 0);
    tables[0][b] = value;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      const std::uint32_t value = tables[k - 1][b];
      tables[k][b] = value >> 8 ^ tables[0][value & 255];
    }
  }
  return tables;
}

constexpr std::array<Table, 8> tables = make_tables();

}  // namespace

std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before) {
  std::uint32_t value = ~before;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    word ^= value;
    value = 0;
    for (std::size_t i = 0; i < 8; ++i) value ^= tables[7 - i][word >> (8 * i) & 255];
  }
  for (const std::byte byte : bytes)
    value = value >> 8 ^ tables[0][(value ^ std::to_integer<std::uint32_t>(byte)) & 255];
  return ~value;
}

}  // namespace shardmix::checkpoint
