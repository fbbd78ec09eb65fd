#include "optimizer/sharded_state.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "device/kernels.hpp"

namespace shardmix::optimizer {

using device::WeightStorage;
using layout::Bucket;
using layout::Range;

ShardedState::ShardedState(device::Device& device, const Parameters& parameters,
                           const RuleStates& states, int rank, int size,
                           const OptimizerOptions& options)
    : device_(device),
      layout_(parameters, options.bucket_elements),
      shard_(layout::shard(layout_, rank, size)),
      size_(size),
      master_kind_(options.master),
      states_{.m1 = false, .m2 = false, .v = false},
      parameters_(device, layout_.parameter_bytes()),
      gradients_(device, layout_.gradient_bytes()),
      master_(device, (options.master == Master::full ? 4 : 2) * shard_.bf16_elements) {
  reserve_levels(levels_for(options.micro_batches));
  set_states(states);
}

std::size_t levels_for(std::int64_t micro_batches) noexcept {
  std::size_t most = 1;
  for (std::int64_t n = 1; n < micro_batches; ++n) {
    // Micro-batch n + 1 goes on top of the partial sums of n, less those that it completes a
    // subtree with.
    const auto held = static_cast<std::uint64_t>(n);
    most =
        std::max(most, static_cast<std::size_t>(std::popcount(held) - std::countr_one(held)) + 1);
  }
  return most;
}

void ShardedState::reserve_levels(std::size_t count) {
  while (reduced_.size() < count) reduced_.emplace_back(device_, 4 * shard_.elements);
}

bool ShardedState::has(State state) const noexcept {
  switch (state) {
    case State::master:
      return true;
    case State::m1:
      return states_.m1;
    case State::m2:
      return states_.m2;
    case State::v:
      return states_.v;
  }
  return false;
}

void ShardedState::set_states(const RuleStates& states) {
  const auto set = [&](device::Buffer& buffer, bool had, bool wanted) {
    if (had != wanted)
      buffer = wanted ? device::Buffer(device_, 4 * shard_.elements) : device::Buffer();
  };
  set(m1_, states_.m1, states.m1);
  set(m2_, states_.m2, states.m2);
  set(v_, states_.v, states.v);
  states_ = states;
}

std::byte* ShardedState::parameter_at(std::int64_t element) const noexcept {
  return parameters_.data() + layout_.byte_offset(element);
}

std::byte* ShardedState::gradient_at(std::int64_t element) const noexcept {
  return gradients_.data() + layout_.byte_offset(element);
}

float* ShardedState::reduced_gradient(std::size_t bucket, std::size_t level) const noexcept {
  return reduced_[level].as<float>() + shard_.slices[bucket].shard_begin;
}

comm::SlicedBucket ShardedState::sliced(const device::Buffer& buffer, std::size_t bucket) const {
  const Bucket& b = layout_.buckets()[bucket];
  comm::SlicedBucket result{.data = buffer.data() + b.byte_begin, .cuts = {}};
  for (int r = 0; r < size_; ++r) {
    result.cuts.push_back((layout::slice(b, r, size_).begin - b.range.begin) * size_of(b.dtype));
  }
  result.cuts.push_back(b.range.size() * size_of(b.dtype));
  return result;
}

comm::SlicedBucket ShardedState::sliced_parameters(std::size_t bucket) const {
  return sliced(parameters_, bucket);
}
comm::SlicedBucket ShardedState::sliced_gradients(std::size_t bucket) const {
  return sliced(gradients_, bucket);
}

WeightStorage ShardedState::storage_of(const Bucket& bucket) const noexcept {
  if (bucket.dtype == DType::fp32) return WeightStorage::fp32;
  return master_kind_ == Master::full ? WeightStorage::bf16_fp32_master
                                      : WeightStorage::bf16_remainder;
}

device::UpdateTask ShardedState::update_task(std::size_t bucket, Range range) const {
  const layout::ShardSlice& slice = shard_.slices[bucket];
  const std::int64_t in_slice = range.begin - slice.range.begin;
  const std::int64_t i = slice.shard_begin + in_slice;
  const WeightStorage storage = storage_of(layout_.buckets()[bucket]);
  const std::int64_t master_bytes = storage == WeightStorage::bf16_fp32_master ? 4 : 2;
  return {.kernel = {},
          .storage = storage,
          .elements = range.size(),
          .gradient = reduced_[0].as<float>() + i,
          .parameter = parameter_at(range.begin),
          .master = storage == WeightStorage::fp32
                        ? nullptr
                        : master_.data() + (slice.bf16_begin + in_slice) * master_bytes,
          .m1 = states_.m1 ? m1_.as<float>() + i : nullptr,
          .m2 = states_.m2 ? m2_.as<float>() + i : nullptr,
          .v = states_.v ? v_.as<float>() + i : nullptr};
}

void ShardedState::zero_gradients() noexcept {
  if (gradients_.bytes() > 0)
    std::memset(gradients_.data(), 0, static_cast<std::size_t>(gradients_.bytes()));
}

std::span<std::byte> ShardedState::all_parameters() const noexcept {
  return {parameters_.data(), static_cast<std::size_t>(parameters_.bytes())};
}

void ShardedState::start_master() noexcept {
  for (std::size_t b = 0; b < layout_.buckets().size(); ++b) {
    const device::UpdateTask task = update_task(b, shard_.slices[b].range);
    if (task.storage == WeightStorage::fp32) continue;
    const auto* parameter = static_cast<const std::uint16_t*>(task.parameter);
    for (std::int64_t i = 0; i < task.elements; ++i) {
      if (task.storage == WeightStorage::bf16_remainder) {
        static_cast<std::uint16_t*>(task.master)[i] = 0;
      } else {
        static_cast<float*>(task.master)[i] = math::float_from_bf16(parameter[i]);
      }
    }
  }
}

void ShardedState::read(State state, std::size_t bucket, Range range,
                        float* values) const noexcept {
  const device::UpdateTask task = update_task(bucket, range);
  const auto count = static_cast<std::size_t>(range.size());
  if (state == State::master) {
    device::dispatch(task, [&](const auto&, const auto& weights) {
      for (std::int64_t i = 0; i < task.elements; ++i) values[i] = weights.load(i);
    });
    return;
  }
  const float* array = state == State::m1 ? task.m1 : state == State::m2 ? task.m2 : task.v;
  std::memcpy(values, array, count * sizeof(float));
}

void ShardedState::write(State state, std::size_t bucket, Range range,
                         const float* values) noexcept {
  const device::UpdateTask task = update_task(bucket, range);
  if (state == State::master) {
    device::dispatch(task, [&](const auto&, const auto& weights) {
      for (std::int64_t i = 0; i < task.elements; ++i) weights.store(i, values[i]);
    });
    return;
  }
  float* array = state == State::m1 ? task.m1 : state == State::m2 ? task.m2 : task.v;
  std::memcpy(array, values, static_cast<std::size_t>(range.size()) * sizeof(float));
}

MemoryReport ShardedState::memory() const noexcept {
  return {.parameter = parameters_.bytes(),
          .gradient = gradients_.bytes(),
          .reduced_gradient = std::ssize(reduced_) * 4 * shard_.elements,
          .master = master_.bytes(),
          .m1 = m1_.bytes(),
          .m2 = m2_.bytes(),
          .v = v_.bytes()};
}

void read_frozen(const ShardedState& state, const Bucket& bucket, Range range,
                 float* values) noexcept {
  const std::byte* data = state.parameter_at(range.begin);
  for (std::int64_t i = 0; i < range.size(); ++i) {
    values[i] = bucket.dtype == DType::fp32
                    ? reinterpret_cast<const float*>(data)[i]
                    : math::float_from_bf16(reinterpret_cast<const std::uint16_t*>(data)[i]);
  }
}

void write_frozen(const ShardedState& state, const Bucket& bucket, Range range,
                  const float* values) noexcept {
  std::byte* data = state.parameter_at(range.begin);
  for (std::int64_t i = 0; i < range.size(); ++i) {
    if (bucket.dtype == DType::fp32) {
      reinterpret_cast<float*>(data)[i] = values[i];
    } else {
      reinterpret_cast<std::uint16_t*>(data)[i] = math::bf16_from_float(values[i]);
    }
  }
}

}  // namespace shardmix::optimizer
