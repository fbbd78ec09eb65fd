// The functions that the GPU's kernels are made of, compiled by nvcc for the host and called as a
// warp calls them: 32 lanes with 8 elements each, and what lanes exchange in between.

#include <algorithm>
#include <limits>
#include <vector>

#include "device/block_reduce.hpp"
#include "device/block_update.hpp"

namespace shardmix::device {
namespace {

using math::block_elements;

constexpr int lanes = 32;
constexpr int own = block_elements / lanes;

struct Lane {
  alignas(16) float g_buffer[own];
  alignas(16) float theta_buffer[own];
  const float* g;
  float* theta;
};

SHARDMIX_HOST_DEVICE void lane_random(std::uint32_t block_key, int first, std::uint32_t* random) {
  for_each_random<own>(block_key, first, [&](int i, std::uint32_t bits) { random[i] = bits; });
}

template <StateStorage State, class Kernel>
void update_block(const Kernel& kernel, const UpdateArrays& a, float scale, std::int64_t block) {
  std::vector<Lane> all(lanes);
  std::vector<States<own, State>> states(lanes);
  const std::int64_t number = a.first_block + block;
  const bool rounds = rounds_parameters(a);
  math::Largest largest;
  for (int l = 0; l < lanes; ++l) {
    const std::int64_t begin = block * block_elements + l * own;
    Lane& lane = all[l];
    lane.g = load_gradient<own>(a, begin, lane.g_buffer);
    lane.theta = load_weights<own>(a, begin, lane.theta_buffer);
    if constexpr (State == StateStorage::full) {
      states[l].update(kernel, a, begin, scale, lane.g, lane.theta);
    } else {
      const math::Largest part = states[l].update(kernel, a, begin, scale, lane.g, lane.theta);
      largest = {std::max(largest.m1, part.m1), std::max(largest.m2, part.m2),
                 std::max(largest.v, part.v)};
    }
  }
  for (int l = 0; l < lanes; ++l) {
    const int first = l * own;
    const std::int64_t begin = block * block_elements + first;
    if constexpr (State == StateStorage::compact)
      states[l].store(a, begin, largest, math::block_key(a.random.state, number), first);
    std::uint32_t random[own] = {};
    if (rounds) lane_random(math::block_key(a.random.parameter, number), first, random);
    store_weights<own>(a, begin, all[l].theta, rounds ? random : nullptr);
  }
}

void reduce_block(const ReduceTask& task, std::int64_t block) {
  alignas(16) float total[lanes][own];
  double columns[own][lanes];
  double squares[lanes];
  bool usable = true;
  const auto shuffle_and_add = [](double* values, int offset) {  // as __shfl_xor_sync
    double before[lanes];
    std::copy(values, values + lanes, before);
    for (int l = 0; l < lanes; ++l) values[l] = before[l] + before[l ^ offset];
  };
  for (int l = 0; l < lanes; ++l) {
    const std::int64_t begin = block * block_elements + l * own;
    sum_tree<own>(task.dtype, task.sources.data(), static_cast<int>(task.sources.size()), begin,
                  total[l]);
    add_partials<own>(task.partials.data(), static_cast<int>(task.partials.size()), begin,
                      total[l]);
    copy<own>(total[l], task.sum + begin);
    for (int i = 0; i < own; ++i)
      columns[i][l] = static_cast<double>(total[l][i]) * static_cast<double>(total[l][i]);
    usable = usable && are_usable<own>(total[l]);
  }
  for (auto& column : columns) {
    for (int offset = square_columns / own; offset < lanes; offset *= 2)
      shuffle_and_add(column, offset);
  }
  for (int l = 0; l < lanes; ++l) {
    double sums[own];
    for (int i = 0; i < own; ++i) sums[i] = columns[i][l];
    squares[l] = sum_of_halves<own>(sums);
  }
  for (int offset = 1; offset < square_columns / own; offset *= 2) shuffle_and_add(squares, offset);
  task.block_squares[block] = usable ? squares[0] : std::numeric_limits<double>::infinity();
}

class WarpDevice final : public Device {
 public:
  void* allocate(std::size_t bytes) override {
    void* memory = ::operator new(bytes, std::align_val_t(64));
    std::fill_n(static_cast<char*>(memory), bytes, char{0});
    return memory;
  }
  void release(void* memory, std::size_t /*bytes*/) noexcept override {
    ::operator delete(memory, std::align_val_t(64));
  }

  void discard(std::byte* memory, std::size_t bytes) override {
    std::fill_n(memory, bytes, std::byte{0});
  }

  void reduce(const ReduceTask& task) override {
    for (std::int64_t b = 0; b < task.elements / block_elements; ++b) reduce_block(task, b);
  }

  void update(const UpdateTask& task) override {
    if (task.control->skip != 0) return;
    const UpdateRun* run = task.runs.data();
    for (std::int64_t b = 0; b < task.elements / block_elements; ++b) {
      while (b * block_elements >= run->end) ++run;
      std::visit(
          [&](const auto& kernel) {
            const float scale = task.control->gradient_scale;
            if (task.arrays.state == StateStorage::full) {
              update_block<StateStorage::full>(kernel, task.arrays, scale, b);
            } else {
              update_block<StateStorage::compact>(kernel, task.arrays, scale, b);
            }
          },
          run->kernel);
    }
  }

  void stream(const StreamTask& /*task*/) override {}
  std::string description() const override { return "a warp on the host"; }
};

}  // namespace

std::unique_ptr<Device> warp_device() {
  return std::make_unique<WarpDevice>();
}

}  // namespace shardmix::device
