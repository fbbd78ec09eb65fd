#include "math/exact_sum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace shardmix::math {
namespace {

TEST(ExactSum, HoldsOneTermExactly) {
  for (int exponent = -298; exponent < 300; ++exponent) {
    for (const double mantissa : {1.0, 1.5, 1.0 + 0x1p-52, 2.0 - 0x1p-52, 1.0 + 0x1p-20}) {
      // The last bit of the smallest terms lies below 2^-320.
      const double x = std::ldexp(mantissa, exponent);
      ExactSum sum;
      sum.add(x);
      if (exponent - 52 >= ExactSum::least_exponent) {
        ASSERT_EQ(sum.value(), x) << exponent;
      } else {
        ASSERT_NEAR(sum.value(), x, 0x1p-320) << exponent;
      }
    }
  }
  EXPECT_EQ(ExactSum().value(), 0.0);
}

TEST(ExactSum, SmallTermsSurviveBesideLargeOnes) {
  ExactSum sum;
  sum.add(0x1p100);
  for (int i = 0; i < 1000; ++i) sum.add(0x1p-60);
  ExactSum large;
  large.add(0x1p100);
  for (std::size_t i = 0; i < ExactSum::digits; ++i) sum.raw()[i] -= large.raw()[i];
  EXPECT_EQ(sum.value(), 1000 * 0x1p-60);
}

TEST(ExactSum, IsTheSameInEveryOrderAndGrouping) {
  std::mt19937_64 random(1);
  std::vector<double> terms(4096);
  std::lognormal_distribution<double> spread(0.0, 30.0);
  for (double& term : terms) term = spread(random);
  const auto sum_of = [](const std::vector<double>& values, std::size_t groups) {
    std::vector<ExactSum> partial(groups);
    for (std::size_t i = 0; i < values.size(); ++i)
      partial[i * groups / values.size()].add(values[i]);
    ExactSum total;
    for (const ExactSum& p : partial) total += p;
    return total.value();
  };
  const double expected = sum_of(terms, 1);
  double largest_first = 0.0;
  std::vector<double> sorted = terms;
  std::ranges::sort(sorted);
  for (const double term : sorted) largest_first += term;
  EXPECT_NEAR(expected, largest_first, 1e-12 * expected);
  for (const std::size_t groups : {2u, 3u, 7u, 64u}) {
    std::ranges::shuffle(terms, random);
    EXPECT_EQ(sum_of(terms, groups), expected);
  }
}

}  // namespace
}  // namespace shardmix::math
