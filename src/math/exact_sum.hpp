#pragma once

/// A sum of squares that doesn't depend on the order of its terms.
///
/// The gradient norm must have the same bits on any number of ranks, threads and devices.
/// Floating-point addition is not associative; integer addition is. ExactSum is a fixed-point
/// number of 640 bits: each term is added exactly, so sums of ranks may be added in any order (by
/// MPI_SUM over int64, or by atomics).

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace shardmix::math {

/// Adds finite doubles x with 0 <= x < 2^320 exactly down to 2^-320; smaller bits are cut off.
class ExactSum {
 public:
  static constexpr int digits =
      20;  ///< of 32 bits each, in int64 so that 2^31 additions need no carry
  static constexpr int least_exponent = -320;

  void add(double x) noexcept {
    if (!(x > 0.0)) return;
    const auto bits = std::bit_cast<std::uint64_t>(x);
    const int exponent = static_cast<int>(bits >> 52) - 1075;  // x = mantissa * 2^exponent
    const std::uint64_t mantissa = (bits & 0xFFFFFFFFFFFFFu) | 0x10000000000000u;
    const int shift = exponent - least_exponent;
    if (shift <= -53) return;
    if (shift < 0) {
      add_at(0, mantissa >> -shift);
      return;
    }
    const int digit = shift / 32;
    const int offset = shift % 32;
    add_at(digit, (mantissa << offset) & 0xFFFFFFFFu);
    add_at(digit + 1, (mantissa >> (32 - offset)) & 0xFFFFFFFFu);
    if (offset > 11) add_at(digit + 2, mantissa >> (64 - offset));
  }

  ExactSum& operator+=(const ExactSum& other) noexcept {
    for (int i = 0; i < digits; ++i)
      digits_[static_cast<std::size_t>(i)] += other.digits_[static_cast<std::size_t>(i)];
    return *this;
  }

  /// The sum, rounded to double.
  [[nodiscard]] double value() const noexcept {
    // Carry first: then the digits are those of the number, whatever the order of additions was.
    auto carried = digits_;
    for (std::size_t i = 0; i + 1 < carried.size(); ++i) {
      carried[i + 1] += carried[i] >> 32;
      carried[i] &= 0xFFFFFFFF;
    }
    double sum = 0.0;
    for (int i = digits - 1; i >= 0; --i) {
      sum += std::ldexp(static_cast<double>(carried[static_cast<std::size_t>(i)]),
                        32 * i + least_exponent);
    }
    return sum;
  }

  /// For an all-reduce: the digits, to be added element by element.
  [[nodiscard]] std::array<std::int64_t, digits>& raw() noexcept { return digits_; }

 private:
  void add_at(int digit, std::uint64_t part) noexcept {
    if (digit < digits) digits_[static_cast<std::size_t>(digit)] += static_cast<std::int64_t>(part);
  }

  std::array<std::int64_t, digits> digits_{};
};

}  // namespace shardmix::math
