#include "math/random_bits.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>

namespace shardmix::math {
namespace {

constexpr std::uint32_t half = 128;

/// The words of all elements of a block.
std::array<std::uint32_t, 256> block_words(std::uint32_t key) {
  std::array<std::uint32_t, 256> words{};
  for (std::uint32_t i = 0; i < half; ++i) {
    words[i] = random_bits(key, i);
    words[i + half] = second_half(words[i]);
  }
  return words;
}

TEST(RandomBits, EachBitIsOneAsOftenAsZero) {
  constexpr int blocks = 4096;
  const std::uint64_t key = random_keys(1, 1).state;
  for (const std::uint32_t first : {0u, half}) {
    std::array<int, 32> ones{};
    for (int b = 0; b < blocks; ++b) {
      const auto words = block_words(block_key(key, b));
      for (std::uint32_t i = first; i < first + half; ++i) {
        for (std::size_t bit = 0; bit < 32; ++bit) ones[bit] += (words[i] >> bit) & 1u;
      }
    }
    const double count = blocks * half;
    for (const int n : ones) EXPECT_NEAR(n / count, 0.5, 4.5 * 0.5 / std::sqrt(count));
  }
}

// The upper bits decide how a value is rounded.
TEST(RandomBits, UpperBitsAreUniformAndNeighboursUnrelated) {
  constexpr int blocks = 4096;
  const std::uint64_t key = random_keys(2, 7).parameter;
  std::array<int, 256> of_byte{};
  // Pairs: neighbours, the two halves of a block, the same element of the next block.
  std::array<double, 3> products{};
  auto before = block_words(block_key(key, -1));
  const auto centred = [](std::uint32_t word) { return word / 4294967296.0 - 0.5; };
  for (int b = 0; b < blocks; ++b) {
    const auto words = block_words(block_key(key, b));
    for (std::size_t i = 0; i < 256; ++i) {
      ++of_byte[words[i] >> 24];
      products[0] += centred(words[i]) * centred(words[(i + 1) % 256]);
      products[1] += centred(words[i]) * centred(words[(i + half) % 256]);
      products[2] += centred(words[i]) * centred(before[i]);
    }
    before = words;
  }
  double chi_square = 0.0;
  for (const int n : of_byte) chi_square += (n - blocks) * double(n - blocks) / blocks;
  EXPECT_NEAR(chi_square, 255.0, 4.5 * std::sqrt(2 * 255.0));
  // The variance of a product is 1/144; each pair of halves is counted twice.
  for (const double product : products)
    EXPECT_NEAR(product / (blocks * 256.0), 0.0, 6.0 / 12.0 / std::sqrt(blocks * 256.0));
}

TEST(RandomBits, NoWordComesTwiceInABlock) {
  for (std::int64_t b = 0; b < 2000; ++b) {
    const auto words = block_words(block_key(random_keys(3, 5).state, b));
    // Both halves are one-to-one; between them words may meet, once in 2^18 blocks.
    EXPECT_EQ(std::set<std::uint32_t>(words.begin(), words.begin() + half).size(), half);
    EXPECT_EQ(std::set<std::uint32_t>(words.begin() + half, words.end()).size(), half);
    EXPECT_EQ(std::set<std::uint32_t>(words.begin(), words.end()).size(), 256u) << b;
  }
}

TEST(RandomBits, KeysDifferBySeedUpdateStreamAndBlock) {
  std::set<std::uint64_t> keys;
  std::size_t count = 0;
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32,
                                   std::uint64_t{1} << 33, ~std::uint64_t{0}}) {
    for (const std::int64_t update : {std::int64_t{0}, std::int64_t{1}, std::int64_t{2},
                                      std::int64_t{1} << 32, (std::int64_t{1} << 32) + 1}) {
      const RandomKeys both = random_keys(seed, update);
      keys.insert(both.state);
      keys.insert(both.parameter);
      count += 2;
      EXPECT_EQ(random_keys(seed, update).state, both.state);
    }
  }
  EXPECT_EQ(keys.size(), count);
  std::set<std::uint32_t> blocks;
  const std::uint64_t key = random_keys(4, 4).state;
  for (const std::int64_t first : {std::int64_t{0}, std::int64_t{1} << 31, std::int64_t{1} << 40}) {
    for (std::int64_t b = 0; b < 1000; ++b) blocks.insert(block_key(key, first + b));
  }
  EXPECT_GE(blocks.size(), 2999u);  // of 32 bits: two of 3,000 meet once in a thousand times
}

}  // namespace
}  // namespace shardmix::math
