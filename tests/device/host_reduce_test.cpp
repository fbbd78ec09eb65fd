#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "device/device.hpp"
#include "device/storage.hpp"
#include "math/block.hpp"

namespace shardmix::device {
namespace {

constexpr std::int64_t block = math::block_elements;
constexpr std::int64_t elements = 37 * block;
constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> random_floats(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(elements));
  for (float& value : values) value = normal(random);
  return values;
}

/// A gradient of any dtype.
class Source {
 public:
  Source(DType dtype, const std::vector<float>& values)
      : dtype_(dtype), bytes_(values.size() * static_cast<std::size_t>(size_of(dtype))) {
    for (std::size_t i = 0; i < values.size(); ++i)
      store_value(dtype, bytes_.data(), static_cast<std::int64_t>(i), values[i]);
  }
  [[nodiscard]] const void* data() const { return bytes_.data(); }
  [[nodiscard]] float at(std::size_t i) const {
    return load_value(dtype_, bytes_.data(), static_cast<std::int64_t>(i));
  }

 private:
  DType dtype_;
  std::vector<std::byte> bytes_;
};

struct Reduced {
  std::vector<float> sum;
  std::vector<double> squares;
};

/// The squares of each block, from a task of its own; infinity where they aren't usable.
std::vector<double> squares_of(Device& device, const std::vector<float>& sum) {
  std::vector<double> squares;
  for (std::size_t begin = 0; begin < sum.size(); begin += block) {
    const std::vector<const void*> source{sum.data() + begin};
    SquareSum square;
    device.reduce({.sources = source, .elements = block, .squares = &square});
    squares.push_back(square.unusable != 0 ? std::numeric_limits<double>::infinity()
                                           : math::ExactSum::value_of(square.digits));
  }
  return squares;
}

Reduced reduce(Device& device, DType dtype, const std::vector<Source>& sources,
               const std::vector<std::vector<float>>& added = {}) {
  std::vector<const void*> addresses;
  for (const Source& source : sources) addresses.push_back(source.data());
  std::vector<const float*> partials;
  for (const auto& values : added) partials.push_back(values.data());
  Reduced result{std::vector<float>(elements), {}};
  SquareSum all;
  device.reduce({.sources = addresses,
                 .dtype = dtype,
                 .elements = elements,
                 .partials = partials,
                 .sum = result.sum.data(),
                 .squares = &all});
  result.squares = squares_of(device, result.sum);
  math::ExactSum sum;
  std::int64_t unusable = 0;
  for (const double square : result.squares) {
    if (std::isfinite(square))
      sum.add(square);
    else
      ++unusable;
  }
  EXPECT_TRUE(std::ranges::equal(all.digits, sum.raw()));
  EXPECT_EQ(all.unusable, unusable);
  return result;
}

/// The binary tree over [begin, end): its left part has the largest power of two below the count.
float tree(const std::vector<Source>& sources, std::size_t begin, std::size_t end, std::size_t i) {
  if (end - begin == 1) return sources[begin].at(i);
  std::size_t left = 1;
  while (2 * left < end - begin) left *= 2;
  return tree(sources, begin, begin + left, i) + tree(sources, begin + left, end, i);
}

/// As documented: rows of 32 as a balanced tree for each column, each eight columns in halves, and
/// their sums as a balanced tree.
double balanced(const std::vector<double>& terms, std::size_t begin, std::size_t end) {
  if (end - begin == 1) return terms[begin];
  const std::size_t middle = (begin + end) / 2;
  return balanced(terms, begin, middle) + balanced(terms, middle, end);
}

double squares_tree(const std::vector<float>& values, std::size_t begin, std::size_t end) {
  std::vector<double> columns;
  for (std::size_t eight = begin; eight < begin + 32; eight += 8) {
    for (const std::size_t column : {0, 4, 2, 6, 1, 5, 3, 7}) {
      std::vector<double> rows;
      for (std::size_t i = eight + column; i < end; i += 32)
        rows.push_back(double{values[i]} * values[i]);
      columns.push_back(balanced(rows, 0, rows.size()));
    }
  }
  return balanced(columns, 0, columns.size());
}

TEST(HostReduce, SumsAsABinaryTreeOverTheRanks) {
  const auto device = host_device(2);
  for (const DType dtype : all_dtypes) {
    std::vector<Source> sources;
    for (unsigned count = 1; count <= 33; ++count) {
      sources.emplace_back(dtype, random_floats(count));
      const Reduced result = reduce(*device, dtype, sources);
      for (std::size_t i = 0; i < elements; i += 13)
        ASSERT_EQ(result.sum[i], tree(sources, 0, count, i))
            << count << " ranks, element " << i << ", " << name_of(dtype);
    }
  }
}

TEST(HostReduce, AddsPartialSumsFromTheLeftTheLastOneFirst) {
  const auto device = host_device(2);
  for (const DType dtype : all_dtypes) {
    std::vector<Source> sources;
    for (unsigned r = 0; r < 3; ++r) sources.emplace_back(dtype, random_floats(r));
    std::vector<std::vector<float>> partials;
    for (unsigned count = 0; count < 7; ++count) {
      const Reduced result = reduce(*device, dtype, sources, partials);
      for (std::size_t i = 0; i < elements; ++i) {
        float expected = tree(sources, 0, 3, i);
        for (std::size_t p = count; p > 0; --p) expected = partials[p - 1][i] + expected;
        ASSERT_EQ(result.sum[i], expected) << count << " partial sums";
      }
      for (std::size_t b = 0; b < elements / block; ++b)
        ASSERT_EQ(result.squares[b], squares_tree(result.sum, b * block, (b + 1) * block));
      partials.push_back(random_floats(10 + count));
    }
  }
}

TEST(HostReduce, MayAddToTheSumInPlace) {
  const auto device = host_device(2);
  const std::vector<Source> sources{{bf16, random_floats(1)}, {bf16, random_floats(2)}};
  const auto before = random_floats(3);
  const Reduced apart = reduce(*device, bf16, sources, {before});
  std::vector<float> sum = before;
  SquareSum squares;
  const std::vector<const void*> addresses{sources[0].data(), sources[1].data()};
  const std::vector<const float*> partials{sum.data()};
  device->reduce({.sources = addresses,
                  .dtype = bf16,
                  .elements = elements,
                  .partials = partials,
                  .sum = sum.data(),
                  .squares = &squares});
  EXPECT_EQ(sum, apart.sum);
  EXPECT_EQ(squares_of(*device, sum), apart.squares);
}

TEST(HostReduce, SquaresAreATreeInTheirBlock) {
  const auto values = random_floats(4);
  for (const int threads : {1, 2, 5}) {
    const Reduced result = reduce(*host_device(threads), fp32, {{fp32, values}});
    for (std::size_t b = 0; b < elements / block; ++b) {
      long double expected = 0;
      for (std::size_t i = b * block; i < (b + 1) * block; ++i)
        expected += static_cast<long double>(values[i]) * values[i];
      EXPECT_NEAR(result.squares[b], static_cast<double>(expected),
                  1e-13 * static_cast<double>(expected));
      EXPECT_EQ(result.squares[b], squares_tree(values, b * block, (b + 1) * block));
    }
  }
}

TEST(HostReduce, MarksTheBlockOfABadGradient) {
  const auto device = host_device(2);
  for (const float bad : {infinity, -infinity, std::nanf(""), 1e19f, -3e38f}) {
    for (const std::size_t at : {0u, 17u, 128u, 255u}) {
      auto values = random_floats(5);
      values[5 * block + at] = bad;
      const Reduced result = reduce(*device, fp32, {{fp32, values}});
      for (std::size_t b = 0; b < elements / block; ++b)
        EXPECT_EQ(result.squares[b] == infinity, b == 5) << bad;
    }
  }
  auto values = random_floats(5);
  for (const float good : {0.0f, 1e18f, -1e18f, 1e-40f, 1e-45f}) {
    values[0] = good;
    EXPECT_TRUE(std::isfinite(reduce(*device, fp32, {{fp32, values}}).squares[0])) << good;
  }
}

TEST(HostReduce, MarksBadGradientsOfSixteenBitsAndBadSums) {
  const auto device = host_device(1);
  for (const DType dtype : {bf16, fp16}) {
    const std::uint16_t infinity_bits = dtype == bf16 ? 0x7F80 : 0x7C00;
    for (const int other_bits : {0, 0x8000, 0x40, 0x807F}) {  // the other sign, and nans
      const auto bits = static_cast<std::uint16_t>(infinity_bits | other_bits);
      Source source(dtype, random_floats(6));
      static_cast<std::uint16_t*>(const_cast<void*>(source.data()))[3 * block + 1] = bits;
      const Reduced result = reduce(*device, dtype, {source, {dtype, random_floats(7)}});
      for (std::size_t b = 0; b < elements / block; ++b)
        EXPECT_EQ(result.squares[b] == infinity, b == 3) << bits;
    }
  }
  auto values = random_floats(5);
  values[9] = 6e17f;  // usable; the sum of two is not
  const Source source(fp32, values);
  EXPECT_TRUE(std::isfinite(reduce(*device, fp32, {source}).squares[0]));
  EXPECT_EQ(reduce(*device, fp32, {source, source}).squares[0], infinity);
  EXPECT_EQ(reduce(*device, fp32, {source}, {values}).squares[0], infinity);
}

TEST(HostReduce, OfNothingIsNothing) {
  const std::vector<float> values(1);
  const std::vector<const void*> addresses{values.data()};
  host_device(4)->reduce({.sources = addresses});
}

TEST(HostStream, ChangesNothing) {
  const auto device = host_device(3);
  Buffer a(*device, 11 * 1024);
  Buffer b(*device, 11 * 512);
  for (std::int64_t i = 0; i < a.bytes(); ++i) a.data()[i] = std::byte(i % 251);
  for (std::int64_t i = 0; i < b.bytes(); ++i) b.data()[i] = std::byte(i % 241);
  const std::vector<StreamArray> arrays{{a.data(), 1024, true}, {b.data(), 512, false}};
  for (const bool by_block : {true, false}) {
    device->stream({.arrays = arrays, .blocks = 11, .by_block = by_block});
    for (std::int64_t i = 0; i < a.bytes(); ++i) ASSERT_EQ(a.data()[i], std::byte(i % 251));
    for (std::int64_t i = 0; i < b.bytes(); ++i) ASSERT_EQ(b.data()[i], std::byte(i % 241));
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
