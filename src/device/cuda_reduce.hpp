#pragma once

/// The reduction on GPUs, and what is decided of its squares.

#include <type_traits>

#include "device/block_reduce.hpp"
#include "device/cuda_warps.hpp"
#include "device/decision.hpp"

namespace shardmix::device::cuda {

inline constexpr int lanes_of_row = square_columns / own;

using Digit = unsigned long long;  // what atomics add; int64 wraps alike

/// The sum of a block's squares, on every lane, in the order of sum_of_squares(). A lane has eight
/// columns of one row. As rows are added, a lane keeps half of its columns and leaves the others to
/// its partner: which columns it has in the end, the lane's bits tell.
__device__ inline double warp_sum_of_squares(const float* values) {
  constexpr unsigned all = 0xFFFFFFFFu;
  double columns[own];
  for_each<own>(
      [&](int i) { columns[i] = static_cast<double>(values[i]) * static_cast<double>(values[i]); });
  int offset = lanes_of_row;
#pragma unroll
  for (int kept = own / 2; kept >= 1; kept /= 2) {
    const bool is_upper = (threadIdx.x & offset) != 0;
#pragma unroll
    for (int i = 0; i < kept; ++i) {
      const double left = is_upper ? columns[i] : columns[i + kept];
      const double own_column = is_upper ? columns[i + kept] : columns[i];
      columns[i] = own_column + __shfl_xor_sync(all, left, offset);
    }
    offset *= 2;
  }
  double sum = columns[0];
  for (offset = lanes_of_row; offset < lanes; offset *= 2) sum += __shfl_xor_sync(all, sum, offset);
  for (offset = 1; offset < lanes_of_row; offset *= 2) sum += __shfl_xor_sync(all, sum, offset);
  return sum;
}

/// Sources that come with the launch; the addresses of partial sums follow.
inline constexpr int most_launched_sources = 64;
struct ReduceLaunch {
  DType dtype;
  int sources;
  int partials;
  std::int64_t blocks;
  float* sum;
  Digit* squares;
  const void* const* table = nullptr;  ///< null: `at`
  const void* at[most_launched_sources] = {};
};

/// What a warp adds to a SquareSum: each lane has one of its values.
class WarpSquares {
 public:
  static_assert(square_sum_values <= lanes);

  /// A block with the sum of its squares, and `Count` of its sums. A square that is too large makes
  /// that sum too large alone, and only then all are looked at.
  template <int Count>
  __device__ void add(double squares, const float* sums) {
    constexpr double surely = double{math::largest_gradient} * double{math::largest_gradient};
    if (squares <= surely || __all_sync(0xFFFFFFFFu, are_usable<Count>(sums)) != 0) {
      math::ExactSum::split(squares, [&](int digit, std::uint64_t part) {
        if (digit == lane()) own_ += part;
      });
    } else if (lane() == math::ExactSum::digits) {
      ++own_;
    }
  }

  /// By all threads of a group; `group` is its shared memory, and zero.
  __device__ void add_to(Digit* total, Digit* group) const {
    if (lane() < square_sum_values) atomicAdd(&group[lane()], own_);
    __syncthreads();
    if (threadIdx.x < square_sum_values) atomicAdd(&total[threadIdx.x], group[threadIdx.x]);
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x % lanes); }
  Digit own_ = 0;
};

/// `Levels` as in sum_tree(): few of them stay in registers.
template <int Levels>
__global__ void __launch_bounds__(threads_per_block)
    reduce_kernel(const __grid_constant__ ReduceLaunch launch) {
  __shared__ Digit group[square_sum_values];
  if (threadIdx.x < square_sum_values) group[threadIdx.x] = 0;
  __syncthreads();
  const void* const* sources = launch.table != nullptr ? launch.table : launch.at;
  const int lane = static_cast<int>(threadIdx.x % lanes);
  WarpSquares squares;
  for (std::int64_t block = warp_number(); block < launch.blocks; block += warp_count()) {
    const std::int64_t begin = block * block_elements + lane * own;
    alignas(16) float total[own];
    sum_tree<own, Levels>(launch.dtype, sources, launch.sources, begin, total);
    add_partials<own>(reinterpret_cast<const float* const*>(sources + launch.sources),
                      launch.partials, begin, total);
    if (launch.sum != nullptr) store<own>(total, launch.sum + begin);
    if (launch.squares != nullptr) squares.add<own>(warp_sum_of_squares(total), total);
  }
  if (launch.squares != nullptr) squares.add_to(launch.squares, group);
}

/// Two neighbouring values in memory.
template <DType D>
struct Pair {
  using Half = std::conditional_t<D == DType::bf16, Bf16, Fp16>;
  std::uint32_t bits;

  __device__ static Pair load(const void* source, std::int64_t at) {
    return {__ldcg(
        reinterpret_cast<const std::uint32_t*>(static_cast<const std::uint16_t*>(source) + at))};
  }
  __device__ void widen(float* to) const {
    to[0] = Half::widen(bits & 0xFFFFu);
    to[1] = Half::widen(bits >> 16);
  }
};
template <>
struct Pair<DType::fp32> {
  uint2 bits;

  __device__ static Pair load(const void* source, std::int64_t at) {
    return {__ldcg(reinterpret_cast<const uint2*>(static_cast<const float*>(source) + at))};
  }
  __device__ void widen(float* to) const {
    to[0] = math::float_from_bits(bits.x);
    to[1] = math::float_from_bits(bits.y);
  }
};

/// The squares alone of one array: a pass that should take no longer than its memory. A lane has
/// two columns of four rows, so that most is added within it, in the order of sum_of_squares(), and
/// its next block comes meanwhile.
template <DType D>
__global__ void __launch_bounds__(threads_per_block)
    squares_kernel(const void* source, std::int64_t blocks, Digit* total) {
  constexpr unsigned all = 0xFFFFFFFFu;
  constexpr int rows = 4;
  constexpr int pairs = square_columns / 2;  // of a row: half of the lanes
  __shared__ Digit group[square_sum_values];
  if (threadIdx.x < square_sum_values) group[threadIdx.x] = 0;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % lanes);
  const bool is_lower = lane >= pairs;
  const std::int64_t first = (is_lower ? rows * square_columns : 0) + 2 * (lane % pairs);
  Pair<D> next[rows] = {};
  const auto load = [&](std::int64_t block) {
    for_each<rows>([&](int r) {
      next[r] = Pair<D>::load(source, block * block_elements + first + r * square_columns);
    });
  };
  WarpSquares squares;
  if (warp_number() < blocks) load(warp_number());
  for (std::int64_t block = warp_number(); block < blocks; block += warp_count()) {
    float values[2 * rows];
    for_each<rows>([&](int r) { next[r].widen(values + 2 * r); });
    if (block + warp_count() < blocks) load(block + warp_count());
    double columns[2];
    for_each<2>([&](int c) {
      const auto row = [&](int r) { return static_cast<double>(values[2 * r + c]); };
      columns[c] = fma(row(1), row(1), row(0) * row(0)) + fma(row(3), row(3), row(2) * row(2));
    });
    const double left = is_lower ? columns[0] : columns[1];
    double sum = (is_lower ? columns[1] : columns[0]) + __shfl_xor_sync(all, left, pairs);
    // Column 2 (lane % 16) + lane / 16: those four, two and one apart, then the four eights.
    for (const int offset : {2, 1, pairs, 4, 8}) sum += __shfl_xor_sync(all, sum, offset);
    squares.template add<2 * rows>(sum, values);
  }
  squares.add_to(total, group);
}

/// A thread a value.
__global__ void add_sums_kernel(const std::int64_t* sums, std::int64_t count, std::int64_t* total) {
  std::int64_t all = 0;
  for (std::int64_t i = 0; i < count; ++i) all += sums[i * square_sum_values + threadIdx.x];
  total[threadIdx.x] = all;
}

__global__ void decide_kernel(DecideTask task) {
  *task.copy = *task.control = decision(task);
}

}  // namespace shardmix::device::cuda
