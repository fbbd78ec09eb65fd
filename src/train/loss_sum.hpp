#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "comm/collectives.hpp"
#include "math/exact_sum.hpp"

namespace shardmix::train {

/// A sum of losses with the same bits on any number of ranks.
class LossSum {
 public:
  /// `loss` is at least 0.
  void add(double loss) noexcept {
    if (std::isfinite(loss)) {
      sum_.add(loss);
    } else {
      ++bad_;
    }
  }

  /// Over all ranks; nan where one isn't finite. `flag` becomes how many ranks set it: it travels
  /// along. Collective.
  [[nodiscard]] double reduce(comm::Collectives& collectives, std::int64_t& flag) const {
    math::ExactSum total = sum_;
    std::array<std::int64_t, math::ExactSum::digits + 2> values{};
    std::ranges::copy(total.raw(), values.begin());
    values[math::ExactSum::digits] = bad_;
    values[math::ExactSum::digits + 1] = flag;
    collectives.all_reduce_sum(values);
    std::copy_n(values.begin(), math::ExactSum::digits, total.raw().begin());
    flag = values[math::ExactSum::digits + 1];
    return values[math::ExactSum::digits] == 0 ? total.value()
                                               : std::numeric_limits<double>::quiet_NaN();
  }

 private:
  math::ExactSum sum_;
  std::int64_t bad_ = 0;
};

}  // namespace shardmix::train
