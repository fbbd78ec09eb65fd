// A GPU gives the same bits as the host.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "same_bits.hpp"
#include "shardmix/error.hpp"

namespace shardmix::device {
namespace {

class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      gpu_ = cuda_device(0);
    } catch (const DeviceError& error) {
      GTEST_SKIP() << error.what();
    }
  }

  std::unique_ptr<Device> gpu_;
};

TEST_F(Gpu, UpdatesAsTheHostDoes) {
  expect_same_updates(*host_device(1), *gpu_);
}

TEST_F(Gpu, ReducesAsTheHostDoes) {
  expect_same_reductions(*host_device(1), *gpu_);
}

/// One AdamW update of what `element` says of each i, whose result is the quotient of the averages.
template <class Make>
void expect_same_quotients(Device& gpu, std::int64_t blocks, const Make& element) {
  // The averages stay as they are, and a bias correction is near 1.
  const Rule rule =
      AdamW{.lr = 0x1p-10, .beta2 = 1.0 - 0x1p-53, .eps = 0x1p-59, .weight_decay = 0.0};
  constexpr std::int64_t late = std::int64_t{1} << 56;
  const auto host = host_device(2);
  Memory ours(*host, rule, {}, blocks);
  Memory others(gpu, rule, {}, blocks);
  std::vector<Element> all(static_cast<std::size_t>(ours.elements()));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = element(i);
  ours.write(all);
  others.write(all);
  ours.update(*host, kernel_of(rule, {}, late));
  others.update(gpu, kernel_of(rule, {}, late));
  const std::vector<Element> expected = ours.read();
  const std::vector<Element> found = others.read();
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const float a = expected[i].weight;
    const float b = found[i].weight;
    if ((std::isnan(a) && std::isnan(b)) || math::bits_from_float(a) == math::bits_from_float(b))
      continue;
    if (wrong++ < 5)
      ADD_FAILURE() << "m1 = " << all[i].s.m1 << ", v = " << all[i].s.v << ": " << b << ", not "
                    << a;
  }
  EXPECT_EQ(wrong, 0);
}

/// Square roots depend on the mantissa and on whether the exponent is even: two octaves are all.
/// The numerators are any; emulated GPUs, which are slow, take one root in 1024.
TEST_F(Gpu, RootsOfAllMantissasAreTheNearest) {
  constexpr std::uint32_t roots = 1u << 24;
  constexpr std::uint32_t one = 0x3F800000;
  constexpr std::uint32_t stride = 1024 / TEST_ROOTS_OF_1024;
  std::mt19937 random(5);
  const auto element = [&](std::size_t i) {
    const std::uint32_t exponent = 127 - 20 + static_cast<std::uint32_t>(random()) % 40;
    const std::uint32_t numerator = exponent << 23 | static_cast<std::uint32_t>(random()) >> 9;
    return Element{.weight = 0.0f,
                   .s = {.m1 = math::float_from_bits(numerator),
                         .m2 = 0.0f,
                         .v = math::float_from_bits(one + static_cast<std::uint32_t>(i) * stride)}};
  };
  expect_same_quotients(*gpu_, roots / stride / block, element);
}

/// Each with some mantissas, at each place of a thread, beside ordinary ones.
TEST_F(Gpu, QuotientsAtTheEndsOfTheRangeAreTheNearest) {
  std::vector<float> ends{0.0f,
                          0x1p-149f,
                          0x1.8p-140f,
                          0x1p-126f,
                          1e-30f,
                          0x1p-60f,
                          1e-8f,
                          1.0f,
                          0x1p50f,
                          1e18f,
                          0x1p64f,
                          0x1p100f,
                          std::numeric_limits<float>::max(),
                          std::numeric_limits<float>::infinity(),
                          std::nanf("")};
  for (const float edge : {0x1p-102f, 0x1p-101f, 0x1p-98f})
    for (const float near : {std::nextafter(edge, 0.0f), edge, std::nextafter(edge, 1.0f)})
      ends.push_back(near);
  constexpr std::size_t mantissas = 50;
  const std::size_t pairs = ends.size() * ends.size() * 2 * mantissas;
  std::mt19937 random(7);
  std::uniform_real_distribution<float> mantissa(1.0f, 2.0f);
  const auto element = [&](std::size_t i) {
    Element x{.weight = -0.0f,
              .s = {.m1 = 0.3f + static_cast<float>(i % 7), .m2 = 0.0f, .v = 0.7f}};
    if (i % 9 == 0 && i / 9 < pairs) {
      const std::size_t pair = i / 9 / mantissas;
      const auto end = [&](std::size_t number) {
        return ends[number % ends.size()] * (i / 9 % mantissas == 0 ? 1.0f : mantissa(random));
      };
      x.s.m1 = end(pair / 2) * (pair % 2 == 0 ? 1.0f : -1.0f);
      x.s.v = end(pair / 2 / ends.size());
    }
    return x;
  };
  expect_same_quotients(*gpu_, static_cast<std::int64_t>(9 * pairs) / block + 1, element);
}

}  // namespace
}  // namespace shardmix::device
