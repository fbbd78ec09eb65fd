#pragma once

/// A sum of squares that doesn't depend on the order of its terms.
///
/// The gradient norm must have the same bits on any number of ranks, threads and devices.
/// Floating-point addition is not associative; integer addition is. ExactSum is a fixed-point
/// number of 640 bits: each term is added exactly, so sums of ranks may be added in any order (by
/// MPI_SUM over int64, or by atomics).

#include <array>
#include <cstdint>
#include <cstring>

#include "math/qualifiers.hpp"

namespace shardmix::math {

/// Adds finite doubles x with 0 <= x < 2^320 exactly down to 2^-320; smaller bits are cut off.
class ExactSum {
 public:
  static constexpr int digits =
      20;  ///< of 32 bits each, in int64 so that 2^31 additions need no carry
  static constexpr int least_exponent = -320;

  void add(double x) noexcept { split(x, AddTo{digits_.data()}); }

  /// Calls add_at(digit, part) for what x adds to each digit.
  template <class AddAt>
  SHARDMIX_HOST_DEVICE static void split(double x, const AddAt& add_at) {
    if (!(x > 0.0)) return;
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const int exponent = static_cast<int>(bits >> 52) - 1075;  // x = mantissa * 2^exponent
    const std::uint64_t mantissa = (bits & 0xFFFFFFFFFFFFFu) | 0x10000000000000u;
    const int shift = exponent - least_exponent;
    const auto add = [&](int digit, std::uint64_t part) {
      if (digit < digits) add_at(digit, part);
    };
    if (shift <= -53) return;
    if (shift < 0) {
      add(0, mantissa >> -shift);
      return;
    }
    const int digit = shift / 32;
    const int offset = shift % 32;
    add(digit, (mantissa << offset) & 0xFFFFFFFFu);
    add(digit + 1, (mantissa >> (32 - offset)) & 0xFFFFFFFFu);
    if (offset > 11) add(digit + 2, mantissa >> (64 - offset));
  }

  ExactSum& operator+=(const ExactSum& other) noexcept {
    for (int i = 0; i < digits; ++i)
      digits_[static_cast<std::size_t>(i)] += other.digits_[static_cast<std::size_t>(i)];
    return *this;
  }

  /// The sum, rounded to double.
  [[nodiscard]] double value() const noexcept { return value_of(digits_.data()); }

  /// That of digits that lie elsewhere.
  [[nodiscard]] SHARDMIX_HOST_DEVICE static double value_of(const std::int64_t* digits_of_sum) {
    // Carry first: then the digits are those of the number, whatever the order of additions was.
    std::int64_t carried[digits];
    std::int64_t carry = 0;
    for (int i = 0; i < digits; ++i) {
      carried[i] = digits_of_sum[i] + carry;
      if (i + 1 == digits) break;
      carry = carried[i] >> 32;
      carried[i] &= 0xFFFFFFFF;
    }
    double sum = 0.0;
    for (int i = digits - 1; i >= 0; --i)
      sum += static_cast<double>(carried[i]) * power_of_two(32 * i + least_exponent);
    return sum;
  }

  /// For an all-reduce: the digits, to be added element by element.
  [[nodiscard]] std::array<std::int64_t, digits>& raw() noexcept { return digits_; }

 private:
  struct AddTo {
    std::int64_t* digits_of_sum;
    SHARDMIX_HOST_DEVICE void operator()(int digit, std::uint64_t part) const {
      digits_of_sum[digit] += static_cast<std::int64_t>(part);
    }
  };
  [[nodiscard]] SHARDMIX_HOST_DEVICE static double power_of_two(int exponent) {
    const std::uint64_t bits = static_cast<std::uint64_t>(exponent + 1023) << 52;
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  std::array<std::int64_t, digits> digits_{};
};

}  // namespace shardmix::math
