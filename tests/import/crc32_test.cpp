#include "checkpoint/crc32.hpp"

#include <gtest/gtest.h>

#include <string_view>

namespace shardmix::checkpoint {
namespace {

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(Crc32, HasTheValuesThatOthersHave) {
  EXPECT_EQ(crc32(bytes("")), 0U);
  EXPECT_EQ(crc32(bytes("123456789")), 0xCBF43926U);  // the check value of its definition
  EXPECT_EQ(crc32(bytes("a")), 0xE8B7BE43U);
}

/// Against the definition, a bit at a time, in pieces of any length.
TEST(Crc32, InPiecesIsTheSame) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(i * 37 >> 2 & 255);
  std::uint32_t slow = ~0U;
  for (const char c : text) {
    slow ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) slow = slow >> 1 ^ (slow & 1 ? 0xEDB88320U : 0U);
  }
  slow = ~slow;
  for (std::size_t cut = 0; cut <= text.size(); cut += 13) {
    const std::uint32_t first = crc32(bytes(text).first(cut));
    EXPECT_EQ(crc32(bytes(text).subspan(cut), first), slow) << cut;
  }
}

}  // namespace
}  // namespace shardmix::checkpoint
