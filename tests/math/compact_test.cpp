#include "math/compact.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace shardmix::math {
namespace {

constexpr std::size_t elements = 256;
using Block = std::array<Moments, elements>;
using Random = std::function<std::uint32_t(std::size_t)>;

/// A code as its description has it: `depth` octaves below 1 and one above, each of 2^mantissa
/// equal steps; what is stored is the value plus `zero`, in units of the scale.
struct Code {
  std::string name;
  float Moments::*value;
  float BlockScales::*scale;
  int depth;
  int mantissa;
  bool has_zero;

  [[nodiscard]] double least() const { return std::ldexp(1.0, -depth); }

  /// The distance of the codes around a value of this size, both in units of the scale.
  [[nodiscard]] double step(double size) const {
    const double y = std::max(size + (has_zero ? least() : 0.0), least());
    return std::ldexp(1.0, std::ilogb(y) - mantissa);
  }
};

const std::vector<Code> codes{{"m1", &Moments::m1, &BlockScales::m1, 15, 3, true},
                              {"m2", &Moments::m2, &BlockScales::m2, 31, 10, true},
                              {"v", &Moments::v, &BlockScales::v, 31, 3, false}};

BlockScales scales_of(const Block& block) {
  Largest largest;
  for (const Moments& s : block) {
    largest.m1 = std::max(largest.m1, bits_from_float(std::fabs(s.m1)));
    largest.m2 = std::max(largest.m2, bits_from_float(std::fabs(s.m2)));
    largest.v = std::max(largest.v, bits_from_float(s.v));
  }
  return scales_for(largest);
}

struct Encoded {
  BlockScales scales;
  std::array<std::uint32_t, elements> words;

  [[nodiscard]] Block decoded() const {
    Block block;
    for (std::size_t i = 0; i < elements; ++i) block[i] = unpacked(words[i], scales);
    return block;
  }
};

Encoded encoded(const Block& block, const BlockScales& scales, const Random& random) {
  Encoded result{scales, {}};
  for (std::size_t i = 0; i < elements; ++i)
    result.words[i] = packed(block[i], inverse(scales), random(i));
  return result;
}
Encoded encoded(const Block& block, const Random& random) {
  return encoded(block, scales_of(block), random);
}

/// Blocks for which a code may go wrong, with largest values from subnormal ones to 1e36.
std::vector<Block> adverse_blocks() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<Block> blocks;
  const auto add = [&](const std::function<Moments(std::size_t)>& element) {
    Block& block = blocks.emplace_back();
    for (std::size_t i = 0; i < elements; ++i) block[i] = element(i);
  };
  add([](std::size_t) { return Moments{}; });
  for (const float large :
       {1e-45f,  1e-40f, 1.2e-38f, 1e-37f,   1e-36f, 1.6e-36f, 2.9e-36f, 4e-36f, 1e-35f,
        1e-34f,  1e-33f, 1e-32f,   1e-31f,   1e-30f, 1e-20f,   1e-10f,   1e-3f,  0.99f,
        1.0f,    1.74f,  1.75f,    1.76f,    1.87f,  1.875f,   1.876f,   1.93f,  1.98f,
        1.9985f, 1.999f, 1.9995f,  1.99999f, 2.0f,   1e3f,     1e10f,    1e18f}) {
    const float square = large > 1e-18f ? large * large : large;
    const float tiny = 1e-10f * large;
    add([&](std::size_t) { return Moments{large, -large, square}; });
    add([&](std::size_t i) {
      return i == 100 ? Moments{-large, large, square} : Moments{tiny, -tiny, tiny * tiny};
    });
    add([&](std::size_t i) { return i == 255 ? Moments{large, large, square} : Moments{}; });
    add([&](std::size_t i) {
      return i % 2 == 0 ? Moments{0.0f, large, 0.0f} : Moments{large, -0.0f, square};
    });
    add([&](std::size_t) {
      const float x = normal(random);
      return Moments{std::clamp(x, -1.0f, 1.0f) * large, 0.2f * x * large, x * x * square / 20.0f};
    });
    add([&](std::size_t i) {  // all octaves
      const float size = std::ldexp(large, -static_cast<int>(i / 6)) * (1.0f - 0.1f * float(i % 6));
      return Moments{i % 3 == 0 ? -size : size, i % 5 == 0 ? -size : size, size * size};
    });
  }
  return blocks;
}

std::vector<Block> random_blocks(std::size_t count) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<Block> blocks(count);
  for (Block& block : blocks) {
    const float scale = std::exp(6.0f * normal(random));
    const float spread = std::fabs(2.0f * normal(random));
    for (Moments& s : block) {
      const float own = scale * std::exp(spread * normal(random));
      const float root = normal(random) * own;
      s = {normal(random) * own, 0.1f * normal(random) * own, root * root};
    }
  }
  return blocks;
}

/// Random words, the extremes among them.
std::vector<Random> randoms() {
  return {[](std::size_t) { return 0u; },
          [](std::size_t) { return 0xFFFFFFFFu; },
          [](std::size_t) { return nearest; },
          [](std::size_t) { return 0x000FFFFFu; },
          [](std::size_t) { return 0xFFF00000u; },
          [](std::size_t i) { return static_cast<std::uint32_t>(i) * 0x9E3779B9u; },
          [](std::size_t i) { return static_cast<std::uint32_t>(i * i + 77) * 0x85EBCA6Bu; }};
}

// In particular no code overflows into its sign, its neighbour or zero.
TEST(Compact, ADecodedValueIsWithinOneCodeOfTheValue) {
  for (const auto& blocks : {adverse_blocks(), random_blocks(200)}) {
    for (const Block& block : blocks) {
      for (const Random& random : randoms()) {
        const Encoded e = encoded(block, random);
        const Block decoded = e.decoded();
        for (const Code& code : codes) {
          const double scale = e.scales.*code.scale;
          for (std::size_t i = 0; i < elements; ++i) {
            const double x = block[i].*code.value;
            const double y = decoded[i].*code.value;
            if (scale == 0.0) {
              ASSERT_EQ(y, 0.0) << code.name;
              continue;
            }
            if (!code.has_zero && x < scale * code.least()) {
              ASSERT_EQ(y, scale * code.least()) << x;
              continue;
            }
            // A little more, for the roundings to fp32.
            const double step = scale * code.step(std::fabs(x) / scale);
            ASSERT_LE(std::fabs(y - x), 1.001 * step)
                << code.name << " " << x << " scale " << scale;
          }
        }
      }
    }
  }
}

TEST(Compact, TheNearestIsWithinHalfACode) {
  for (const Block& block : random_blocks(500)) {
    const Encoded e = encoded(block, [](std::size_t) { return nearest; });
    const Block decoded = e.decoded();
    for (const Code& code : codes) {
      const double scale = e.scales.*code.scale;
      for (std::size_t i = 0; i < elements; ++i) {
        const double x = block[i].*code.value;
        if (!code.has_zero && x < scale * code.least()) continue;
        ASSERT_LE(std::fabs(decoded[i].*code.value - x),
                  0.501 * scale * code.step(std::fabs(x) / scale))
            << code.name;
      }
    }
  }
}

TEST(Compact, ScalesArePowersOfTwoJustAboveHalfOfTheLargest) {
  for (const Block& block : adverse_blocks()) {
    const BlockScales scales = scales_of(block);
    for (const Code& code : codes) {
      double largest = 0.0;
      for (const Moments& s : block) largest = std::max(largest, std::fabs(double{s.*code.value}));
      const float scale = scales.*code.scale;
      if (scale == 0.0f) {
        ASSERT_LT(largest, 0x1p-118) << code.name;
        continue;
      }
      int exponent = 0;
      ASSERT_EQ(std::frexp(scale, &exponent), 0.5f) << code.name;
      ASSERT_LT(largest / scale + (code.has_zero ? code.least() : 0.0), 2.0) << code.name;
      ASSERT_GE(largest / scale, 1.0 - 1.01 * std::ldexp(1.0, -code.mantissa - 1)) << code.name;
      ASSERT_EQ(inverse(scale) * scale, 1.0f);
    }
  }
  EXPECT_EQ(inverse(0.0f), 0.0f);
}

TEST(Compact, ZeroAndTheSignStay) {
  for (const Block& block : adverse_blocks()) {
    for (const Random& random : randoms()) {
      const Block decoded = encoded(block, random).decoded();
      for (std::size_t i = 0; i < elements; ++i) {
        ASSERT_TRUE(block[i].m1 != 0.0f || decoded[i].m1 == 0.0f);
        ASSERT_TRUE(block[i].m2 != 0.0f || decoded[i].m2 == 0.0f);
        ASSERT_EQ(std::signbit(decoded[i].m1), std::signbit(block[i].m1));
        ASSERT_EQ(std::signbit(decoded[i].m2), std::signbit(block[i].m2));
        ASSERT_FALSE(std::signbit(decoded[i].v));
      }
    }
  }
}

TEST(Compact, VIsZeroOnlyWhereAllOfTheBlockIsNearlyZero) {
  for (const Block& block : adverse_blocks()) {
    for (const Random& random : randoms()) {
      const Encoded e = encoded(block, random);
      if (e.scales.v == 0.0f) continue;
      for (const Moments& s : e.decoded()) {
        ASSERT_GT(s.v, 0.0f);
        ASSERT_GE(s.v, e.scales.v * 0x1p-31f);
      }
    }
  }
}

void expect_same(const Encoded& e, const Encoded& again) {
  for (std::size_t i = 0; i < elements; ++i)
    ASSERT_EQ(e.words[i], again.words[i]) << "element " << i;
}

TEST(Compact, DecodedValuesHaveTheSameCodesAgain) {
  for (const auto& blocks : {adverse_blocks(), random_blocks(500)}) {
    for (const Block& block : blocks) {
      for (const Random& random : randoms()) {
        const Encoded e = encoded(block, random);
        const Block decoded = e.decoded();
        expect_same(e, encoded(decoded, e.scales, [](std::size_t) { return nearest; }));
        if (HasFailure()) return;
        // The scale as well, or the next where the largest was rounded up to the last code.
        const BlockScales scales = scales_of(decoded);
        for (const Code& code : codes) {
          const float scale = e.scales.*code.scale;
          const double last = 2.0 - std::ldexp(1.0, -code.mantissa);
          double largest = 0.0;
          for (const Moments& s : decoded)
            largest = std::max(largest, std::fabs(double{s.*code.value}));
          const bool is_last = largest > (last - 2.0 * code.least()) * scale * (1.0 - 1e-7);
          ASSERT_EQ(scales.*code.scale, is_last ? 2.0f * scale : scale) << code.name;
        }
      }
    }
  }
}

TEST(Compact, StaysStableOverManyUpdates) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  Block block = random_blocks(1)[0];
  for (int step = 0; step < 3000; ++step) {
    for (std::size_t i = 0; i < elements; ++i) {
      const float g = normal(random) * static_cast<float>(1 + i % 7);
      Moments& s = block[i];
      s.m1 = averaged(s.m1, g, 0.1f);
      s.m2 = averaged(s.m2, g, 1e-4f);
      s.v = averaged_square(s.v, g, 1e-3f);
    }
    const Encoded e =
        encoded(block, [&](std::size_t) { return static_cast<std::uint32_t>(random()); });
    block = e.decoded();
    expect_same(e, encoded(block, e.scales, [](std::size_t) { return nearest; }));
    if (HasFailure()) return;
  }
  // v tends to the mean square of its element's gradients, a few codes up or down; m2 is small.
  double mean = 0.0;
  for (std::size_t i = 0; i < elements; ++i) {
    const auto size = static_cast<float>(1 + i % 7);
    mean += block[i].v / (size * size) / elements;
    EXPECT_GT(block[i].v, 0.3f * size * size);
    EXPECT_LT(block[i].v, 3.0f * size * size);
    EXPECT_LT(std::fabs(block[i].m2), 0.2f * size);
  }
  EXPECT_NEAR(mean, 0.95, 0.1);
}

TEST(Compact, StochasticRoundingGivesTheValueInTheMean) {
  constexpr int count = 16384;
  std::mt19937 random(4);
  std::vector<std::uint32_t> words(count);
  for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random());
  for (const Block& block : random_blocks(4)) {
    const BlockScales scales = scales_of(block);
    const BlockScales inverses = inverse(scales);
    for (std::size_t i = 0; i < elements; i += 5) {
      double m1 = 0.0;
      double m2 = 0.0;
      double v = 0.0;
      for (const std::uint32_t word : words) {
        const Moments s = unpacked(packed(block[i], inverses, word), scales);
        m1 += s.m1;
        m2 += s.m2;
        v += s.v;
      }
      const std::array<double, 3> means{m1 / count, m2 / count, v / count};
      for (std::size_t c = 0; c < codes.size(); ++c) {
        const Code& code = codes[c];
        const double scale = scales.*code.scale;
        const double x = block[i].*code.value;
        if (!code.has_zero && x < scale * code.least()) continue;
        // A standard deviation is at most half a step over the root of the count.
        const double step = scale * code.step(std::fabs(x) / scale);
        ASSERT_NEAR(means[c], x, 4.5 * 0.5 * step / std::sqrt(double{count})) << code.name;
      }
    }
  }
}

// An average that moves by a hundredth of a step at a time would stand still otherwise.
TEST(Compact, SmallMovesAreNotLost) {
  std::mt19937 random(5);
  Block block;
  block.fill({1.0f, 1.0f, 1.0f});
  for (int step = 0; step < 10'000; ++step) {
    for (Moments& s : block) {
      s.m1 = averaged(s.m1, 0.5f, 1e-3f);
      s.m2 = averaged(s.m2, 0.5f, 1e-4f);
      s.v = averaged(s.v, 0.5f, 1e-3f);
    }
    const BlockScales scales = scales_of(block);
    block = encoded(block, scales, [&](std::size_t) {
              return static_cast<std::uint32_t>(random());
            }).decoded();
  }
  Moments sum{};
  for (const Moments& s : block) {
    sum.m1 += s.m1 / elements;
    sum.m2 += s.m2 / elements;
    sum.v += s.v / elements;
  }
  EXPECT_NEAR(sum.m1, 0.5, 0.05);
  EXPECT_NEAR(sum.m2, 0.5 + 0.5 * std::exp(-1.0), 0.01);
  EXPECT_NEAR(sum.v, 0.5, 0.05);
}

}  // namespace
}  // namespace shardmix::math
