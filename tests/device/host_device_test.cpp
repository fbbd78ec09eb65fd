#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "device/device.hpp"
#include "math/bfloat16.hpp"
#include "math/block.hpp"
#include "math/step_scalars.hpp"

namespace shardmix::device {
namespace {

constexpr std::int64_t block = math::block_elements;
constexpr std::int64_t elements = 37 * block;

std::vector<float> random_floats(unsigned seed, std::int64_t count = elements) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<std::uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<std::uint16_t> result;
  for (const float value : values) result.push_back(math::bf16_from_float(value));
  return result;
}

struct Reduced {
  std::vector<float> sum;
  std::vector<double> squares;
};

template <class T>
Reduced reduce(Device& device, const std::vector<std::vector<T>>& sources,
               const std::vector<float>* add_to = nullptr) {
  std::vector<const void*> addresses;
  for (const auto& source : sources) addresses.push_back(source.data());
  Reduced result{std::vector<float>(elements), std::vector<double>(elements / block)};
  std::vector<const float*> partials;
  if (add_to != nullptr) partials.push_back(add_to->data());
  device.reduce({.sources = addresses,
                 .dtype = sizeof(T) == 4 ? fp32 : bf16,
                 .elements = elements,
                 .partials = partials,
                 .sum = result.sum.data(),
                 .block_squares = result.squares.data()});
  return result;
}

TEST(HostReduce, SumsAsABinaryTreeOverTheRanks) {
  const auto device = host_device(1);
  std::vector<std::vector<float>> s;
  for (unsigned r = 0; r < 7; ++r) s.push_back(random_floats(r));
  const auto at = [&](std::size_t count, std::size_t i) {
    switch (count) {
      case 1:
        return s[0][i];
      case 2:
        return s[0][i] + s[1][i];
      case 3:
        return (s[0][i] + s[1][i]) + s[2][i];
      case 4:
        return (s[0][i] + s[1][i]) + (s[2][i] + s[3][i]);
      default:
        return ((s[0][i] + s[1][i]) + (s[2][i] + s[3][i])) + ((s[4][i] + s[5][i]) + s[6][i]);
    }
  };
  for (const std::size_t count : {1u, 2u, 3u, 4u, 7u}) {
    const Reduced result =
        reduce(*device, std::vector(s.begin(), s.begin() + static_cast<std::ptrdiff_t>(count)));
    for (std::size_t i = 0; i < elements; ++i)
      ASSERT_EQ(result.sum[i], at(count, i)) << count << " ranks, element " << i;
  }
}

TEST(HostReduce, WidensBf16AndAddsMicroBatches) {
  const auto device = host_device(2);
  const auto a = to_bf16(random_floats(1));
  const auto b = to_bf16(random_floats(2));
  const auto before = random_floats(3);
  const Reduced result = reduce<std::uint16_t>(*device, {a, b}, &before);
  for (std::size_t i = 0; i < elements; ++i) {
    ASSERT_EQ(result.sum[i],
              before[i] + (math::float_from_bf16(a[i]) + math::float_from_bf16(b[i])));
  }
}

TEST(HostReduce, SquaresBelongToTheirBlock) {
  const auto device = host_device(2);
  const auto values = random_floats(4);
  const Reduced result = reduce<float>(*device, {values});
  for (std::size_t b = 0; b < elements / block; ++b) {
    long double expected = 0;
    for (std::size_t i = b * block; i < (b + 1) * block; ++i)
      expected += static_cast<long double>(values[i]) * values[i];
    EXPECT_NEAR(result.squares[b], static_cast<double>(expected),
                1e-13 * static_cast<double>(expected));
  }
}

TEST(HostReduce, MarksTheBlockOfABadGradient) {
  const auto device = host_device(2);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::nanf(""), 1e19f, -3e38f}) {
    auto values = random_floats(5);
    values[5 * block + 17] = bad;
    const Reduced result = reduce<float>(*device, {values});
    for (std::size_t b = 0; b < elements / block; ++b)
      EXPECT_EQ(std::isfinite(result.squares[b]), b != 5) << bad;
  }
  auto values = random_floats(5);
  for (const float good : {0.0f, 1e18f, -1e18f, 1e-45f}) {
    values[0] = good;
    EXPECT_TRUE(std::isfinite(reduce<float>(*device, {values}).squares[0])) << good;
  }
}

/// The state of a run, and its update on a device.
struct TestRun {
  std::vector<float> gradient = random_floats(10);
  std::vector<float> weight = random_floats(11);
  std::vector<std::uint16_t> parameter = to_bf16(weight);
  std::vector<std::uint16_t> remainder;
  std::vector<float> m1 = random_floats(12);
  std::vector<float> m2 = random_floats(13);
  std::vector<float> v = random_floats(14);

  TestRun() {
    for (const float w : weight) remainder.push_back(math::remainder_of(w));
    for (float& x : v) x = x * x;
  }

  /// Elements [begin, end), with `scale` on the gradient.
  void update(Device& device, const math::UpdateKernel& kernel, WeightStorage storage,
              std::int64_t begin, std::int64_t end) {
    const bool is_fp32 = storage == WeightStorage::fp32;
    const bool has_remainder = storage == WeightStorage::bf16_remainder;
    device.update({.kernel = kernel,
                   .storage = storage,
                   .elements = end - begin,
                   .gradient_scale = 0.37f,
                   .gradient = gradient.data() + begin,
                   .parameter = is_fp32 ? static_cast<void*>(weight.data() + begin)
                                        : parameter.data() + begin,
                   .master = has_remainder ? static_cast<void*>(remainder.data() + begin)
                                           : weight.data() + begin,
                   .m1 = m1.data() + begin,
                   .m2 = m2.data() + begin,
                   .v = v.data() + begin});
  }
};

std::vector<math::UpdateKernel> all_kernels() {
  std::vector<math::UpdateKernel> kernels;
  for (const Rule& rule : {Rule(AdEMAMix{}), Rule(AdEMAMix{.beta1 = 0.0}), Rule(AdamW{})}) {
    kernels.push_back(math::update_kernel(rule, Group{}, {.step = 5, .update = 5, .slow_step = 3}));
  }
  return kernels;
}

TEST(HostUpdate, IsTheRuleAppliedToEachElement) {
  const auto device = host_device(2);
  for (const auto& kernel : all_kernels()) {
    TestRun run;
    TestRun expected;
    run.update(*device, kernel, WeightStorage::fp32, 0, elements);
    for (std::size_t i = 0; i < elements; ++i) {
      std::visit(
          [&](const auto& k) {
            float m1 = expected.m1[i];
            expected.weight[i] = k(expected.gradient[i] * 0.37f, expected.weight[i], m1,
                                   expected.m2[i], expected.v[i]);
            if (k.has_m1) expected.m1[i] = m1;
          },
          kernel);
    }
    EXPECT_EQ(run.weight, expected.weight);
    EXPECT_EQ(run.m1, expected.m1);
    EXPECT_EQ(run.m2, expected.m2);
    EXPECT_EQ(run.v, expected.v);
  }
}

TEST(HostUpdate, GivesTheSameBitsForEveryNumberOfThreadsAndEveryCut) {
  for (const auto& kernel : all_kernels()) {
    for (const auto storage :
         {WeightStorage::fp32, WeightStorage::bf16_fp32_master, WeightStorage::bf16_remainder}) {
      TestRun whole;
      whole.update(*host_device(1), kernel, storage, 0, elements);
      TestRun cut;
      const auto device = host_device(3);
      for (const auto& [begin, end] :
           {std::pair{0L, block}, {block, 20 * block}, {20 * block, elements}}) {
        cut.update(*device, kernel, storage, begin, end);
      }
      EXPECT_EQ(whole.weight, cut.weight);
      EXPECT_EQ(whole.parameter, cut.parameter);
      EXPECT_EQ(whole.remainder, cut.remainder);
      EXPECT_EQ(whole.m1, cut.m1);
      EXPECT_EQ(whole.m2, cut.m2);
      EXPECT_EQ(whole.v, cut.v);
    }
  }
}

TEST(HostUpdate, RemainderAndFp32MasterAreTheSameWeights) {
  const auto device = host_device(1);
  for (const auto& kernel : all_kernels()) {
    TestRun master;
    TestRun remainder;
    for (int step = 0; step < 10; ++step) {
      master.update(*device, kernel, WeightStorage::bf16_fp32_master, 0, elements);
      remainder.update(*device, kernel, WeightStorage::bf16_remainder, 0, elements);
    }
    EXPECT_EQ(master.parameter, remainder.parameter);
    for (std::size_t i = 0; i < elements; ++i) {
      ASSERT_EQ(master.weight[i],
                math::weight_from(remainder.parameter[i], remainder.remainder[i]));
    }
  }
}

TEST(Buffer, IsZeroAndMoves) {
  const auto device = host_device(1);
  Buffer buffer(*device, 5000);
  for (std::int64_t i = 0; i < buffer.bytes(); ++i) ASSERT_EQ(buffer.data()[i], std::byte{0});
  const std::byte* data = buffer.data();
  Buffer moved = std::move(buffer);
  EXPECT_EQ(moved.data(), data);
  moved = Buffer(*device, 0);
  EXPECT_EQ(moved.data(), nullptr);
}

}  // namespace
}  // namespace shardmix::device
