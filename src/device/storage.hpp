#pragma once

/// Values in the memory of updates, one by one: for what isn't a kernel (checkpoints, start
/// values).

#include <cstdint>

#include "device/formats.hpp"
#include "shardmix/rules.hpp"

namespace shardmix::device {

/// The three averages that an update rule may keep.
enum class Moment : std::uint8_t { m1, m2, v };

/// The member m1, m2 or v of something that has one for each.
template <class T>
[[nodiscard]] constexpr auto& of(T& each, Moment moment) noexcept {
  switch (moment) {
    case Moment::m1:
      return each.m1;
    case Moment::m2:
      return each.m2;
    case Moment::v:
      break;
  }
  return each.v;
}

/// A value as fp32. `to` of store_value() gets the nearest.
[[nodiscard]] float load_value(DType dtype, const void* from, std::int64_t i) noexcept;
void store_value(DType dtype, void* to, std::int64_t i, float value) noexcept;

/// The fp32 weights of elements [begin, begin + count); writing them sets the parameters too.
void read_weights(const UpdateArrays& arrays, std::int64_t begin, std::int64_t count,
                  float* to) noexcept;
void write_weights(const UpdateArrays& arrays, std::int64_t begin, std::int64_t count,
                   const float* from) noexcept;

/// A state that is kept, of elements [begin, begin + count), as fp32.
void read_state(const UpdateArrays& arrays, Moment moment, std::int64_t begin, std::int64_t count,
                float* to) noexcept;

/// The inverse. Compact: `begin` is at a block, what is left of the last block becomes zero, and
/// codes are the nearest: values that were read are stored as they were.
void write_state(const UpdateArrays& arrays, Moment moment, std::int64_t begin, std::int64_t count,
                 const float* from) noexcept;

}  // namespace shardmix::device
