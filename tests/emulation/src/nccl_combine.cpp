// Sums, products, least and largest values of NCCL's types. Values of 16 bits are rounded after
// each operation.

#include <algorithm>
#include <bit>
#include <cstring>

#include "errors.hpp"
#include "math/float16.hpp"
#include "nccl_shared.hpp"

namespace emulation::nccl {
namespace {

struct Float16 {
  std::uint16_t bits;
  explicit operator float() const { return shardmix::math::float_from_fp16(bits); }
  explicit Float16(float value) : bits(shardmix::math::fp16_from_float(value)) {}
};

struct Bfloat16 {
  std::uint16_t bits;
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  explicit Bfloat16(float value) {
    const auto all = std::bit_cast<std::uint32_t>(value);
    bits = static_cast<std::uint16_t>((all + 0x7FFF + (all >> 16 & 1)) >> 16);  // ties to even
  }
};

/// What values of T are computed in.
template <class T>
struct Computed {
  using Type = T;
};
template <>
struct Computed<Float16> {
  using Type = float;
};
template <>
struct Computed<Bfloat16> {
  using Type = float;
};

template <class C>
C result(ncclRedOp_t op, C a, C b) {
  switch (op) {
    case ncclSum:
      return static_cast<C>(a + b);
    case ncclProd:
      return static_cast<C>(a * b);
    case ncclMax:
      return std::max(a, b);
    case ncclMin:
      return std::min(a, b);
    default:
      fatal("NCCL's operation {} isn't emulated", static_cast<int>(op));
  }
}

template <class T>
void combine_all(ncclRedOp_t op, std::byte* total, const std::byte* other, std::size_t bytes) {
  using C = typename Computed<T>::Type;
  auto* totals = reinterpret_cast<T*>(total);
  const auto* others = reinterpret_cast<const T*>(other);
  for (std::size_t i = 0; i < bytes / sizeof(T); ++i)
    totals[i] = static_cast<T>(result<C>(op, static_cast<C>(totals[i]), static_cast<C>(others[i])));
}

}  // namespace

std::size_t size_of(ncclDataType_t type) {
  constexpr std::size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return sizes[type];
}

void combine(ncclDataType_t type, ncclRedOp_t op, std::byte* total, const std::byte* other,
             std::size_t bytes) {
  switch (type) {
    case ncclInt8:
      return combine_all<std::int8_t>(op, total, other, bytes);
    case ncclUint8:
      return combine_all<std::uint8_t>(op, total, other, bytes);
    case ncclInt32:
      return combine_all<std::int32_t>(op, total, other, bytes);
    case ncclUint32:
      return combine_all<std::uint32_t>(op, total, other, bytes);
    case ncclInt64:
      return combine_all<std::int64_t>(op, total, other, bytes);
    case ncclUint64:
      return combine_all<std::uint64_t>(op, total, other, bytes);
    case ncclFloat16:
      return combine_all<Float16>(op, total, other, bytes);
    case ncclFloat32:
      return combine_all<float>(op, total, other, bytes);
    case ncclFloat64:
      return combine_all<double>(op, total, other, bytes);
    case ncclBfloat16:
      return combine_all<Bfloat16>(op, total, other, bytes);
    default:
      fatal("NCCL's type {} isn't emulated", static_cast<int>(type));
  }
}

}  // namespace emulation::nccl
