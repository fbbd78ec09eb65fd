#include "optimizer/sharded_state.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include "device/host_arrays.hpp"

#include "optimizer/switch.hpp"

namespace shardmix::optimizer {
namespace {

using device::Moment;
using device::StateStorage;
using device::WeightStorage;
using layout::Bucket;
using layout::Range;

constexpr std::array moments{Moment::m1, Moment::m2, Moment::v};

/// None for the master weights.
std::optional<Moment> moment_of(State state) {
  if (state == State::master) return std::nullopt;
  return state == State::m1 ? Moment::m1 : state == State::m2 ? Moment::m2 : Moment::v;
}

WeightStorage storage_of(DType dtype, Master master) {
  switch (master_bytes(dtype, master)) {
    case 4:
      return WeightStorage::master;
    case 2:
      return WeightStorage::remainder;
    default:
      return WeightStorage::parameter;
  }
}

}  // namespace

std::int64_t gradient_bytes(const layout::Layout& layout,
                            const OptimizerOptions& options) noexcept {
  const std::int64_t all = layout.gradient_bytes();
  if (!options.shard_gradients) return all;
  std::int64_t largest = 0;
  for (const Bucket& b : layout.buckets())
    largest = std::max(largest, b.range.size() * size_of(b.dtype));
  return std::min(all, most_gradient_buckets * largest);
}

std::int64_t master_bytes(DType dtype, Master master) noexcept {
  if (dtype == DType::fp32 || master == Master::none) return 0;
  return master == Master::remainder && dtype == DType::bf16 ? 2 : 4;
}

std::array<std::int64_t, 3> moment_bytes(const RuleStates& states, StateFormat format,
                                         std::int64_t elements) noexcept {
  if (format == StateFormat::full) {
    const std::int64_t each = 4 * elements;
    return {states.m1 ? each : 0, states.m2 ? each : 0, states.v ? each : 0};
  }
  // A byte a code for m1 and v; what is left of the words is m2's. The scales go to the last kept.
  const std::int64_t words = elements * device::word_bytes_of(states);
  const std::int64_t scales =
      elements / math::block_elements * std::int64_t{sizeof(math::BlockScales)};
  std::array<std::int64_t, 3> bytes{states.m1 ? elements : 0, 0, states.v ? elements : 0};
  if (states.m2) bytes[1] = words - bytes[0] - bytes[2];
  bytes[states.v ? 2 : states.m2 ? 1 : 0] += scales;
  return bytes;
}

ShardedState::ShardedState(device::Device& device, layout::Layout layout, device::Buffer parameters,
                           device::Buffer gradients, const RuleStates& states, int rank, int size,
                           const OptimizerOptions& options)
    : device_(device),
      layout_(std::move(layout)),
      shard_(layout::shard(layout_, rank, size)),
      size_(size),
      options_(options),
      states_(states),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      moments_(make_moments(states)) {
  std::int64_t bytes = 0;
  for (std::size_t b = 0; b < shard_.slices.size(); ++b) {
    master_begin_.push_back(bytes);
    bytes +=
        shard_.slices[b].range.size() * master_bytes(layout_.buckets()[b].dtype, options.master);
  }
  master_ = device::Buffer(device, bytes);
  reserve_levels(levels_for(options.micro_batches));
  device.synchronize();
  start_master();  // of padding too
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

ShardedState::Moments ShardedState::make_moments(const RuleStates& states) const {
  const std::int64_t n = shard_.elements;
  Moments result;
  if (options_.state == StateFormat::compact) {
    result.words = device::Buffer(device_, n * device::word_bytes_of(states));
    result.scales =
        device::Buffer(device_, n / math::block_elements * std::int64_t{sizeof(math::BlockScales)});
  } else {
    if (states.m1) result.m1 = device::Buffer(device_, 4 * n);
    if (states.m2) result.m2 = device::Buffer(device_, 4 * n);
    if (states.v) result.v = device::Buffer(device_, 4 * n);
  }
  return result;
}

device::UpdateArrays ShardedState::arrays_of(const Moments& moments, const RuleStates& states) {
  device::UpdateArrays a;
  a.state = moments.words.data() != nullptr ? StateStorage::compact : StateStorage::full;
  a.m1 = moments.m1.as<float>();
  a.m2 = moments.m2.as<float>();
  a.v = moments.v.as<float>();
  a.words = moments.words.data();
  a.word_bytes = device::word_bytes_of(states);
  a.scales = moments.scales.as<math::BlockScales>();
  return a;
}

void ShardedState::set_states(const RuleStates& states, Moments fresh) {
  if (states == states_) return;
  const device::UpdateArrays from = arrays_of(moments_, states_);
  const device::UpdateArrays to = arrays_of(fresh, states);
  device_.synchronize();
  std::vector<float> values(static_cast<std::size_t>(device::most_brought));
  for (const Moment moment : moments) {
    if (!device::of(states_, moment) || !device::of(states, moment)) continue;
    if (moment == Moment::m2 && m2_begins(states_, states)) continue;
    device::for_each_part(0, shard_.elements, [&](std::int64_t begin, std::int64_t count) {
      const device::HostArrays old(device_, from, begin, count, moment);
      device::HostArrays now(device_, to, begin, count, moment);
      device::read_state(old.arrays(), moment, old.begin(), count, values.data());
      device::write_state(now.arrays(), moment, now.begin(), count, values.data());
      now.store();
    });
  }
  moments_ = std::move(fresh);
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
  comm::SlicedBucket result{.data = buffer.data() + b.byte_begin, .dtype = b.dtype, .cuts = {}};
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

device::UpdateArrays ShardedState::arrays(std::size_t bucket) const {
  const Bucket& b = layout_.buckets()[bucket];
  const layout::ShardSlice& slice = shard_.slices[bucket];
  const std::int64_t begin = slice.shard_begin;
  device::UpdateArrays a = arrays_of(moments_, states_);
  a.weights = storage_of(b.dtype, options_.master);
  a.dtype = b.dtype;
  a.gradients[0] = reduced_[0].as<float>() + begin;
  a.parameter = parameter_at(slice.range.begin);
  a.master = master_.data() + master_begin_[bucket];
  if (a.m1 != nullptr) a.m1 += begin;
  if (a.m2 != nullptr) a.m2 += begin;
  if (a.v != nullptr) a.v += begin;
  if (a.words != nullptr) {
    a.words = static_cast<std::byte*>(a.words) + begin * a.word_bytes;
    a.scales += begin / math::block_elements;
  }
  a.first_block = slice.range.begin / math::block_elements;
  return a;
}

void ShardedState::zero_gradients() {
  device_.zero(gradients_.data(), static_cast<std::size_t>(gradients_.bytes()));
}

std::span<std::byte> ShardedState::all_gradients() const noexcept {
  return {gradients_.data(), static_cast<std::size_t>(gradients_.bytes())};
}

std::span<std::byte> ShardedState::all_parameters() const noexcept {
  return {parameters_.data(), static_cast<std::size_t>(parameters_.bytes())};
}

void ShardedState::start_master() {
  const std::vector<std::uint16_t> none(static_cast<std::size_t>(device::most_brought),
                                        math::no_remainder);
  for (std::size_t b = 0; b < layout_.buckets().size(); ++b) {
    const device::UpdateArrays all = arrays(b);
    if (all.weights == WeightStorage::parameter) continue;
    const auto start = [&](std::int64_t begin, std::int64_t count) {
      if (all.weights == WeightStorage::remainder) {
        device_.copy(static_cast<std::uint16_t*>(all.master) + begin, none.data(),
                     static_cast<std::size_t>(count) * sizeof(std::uint16_t));
        return;
      }
      device::HostArrays part(device_, all, begin, count, {});
      const device::UpdateArrays& a = part.arrays();
      for (std::int64_t i = part.begin(); i < part.begin() + count; ++i)
        static_cast<float*>(a.master)[i] = device::load_value(a.dtype, a.parameter, i);
      part.store();
    };
    device::for_each_part(0, shard_.slices[b].range.size(), start);
  }
}

void ShardedState::read(State state, std::size_t bucket, Range range, float* values) const {
  const device::UpdateArrays all = arrays(bucket);
  const std::int64_t first = range.begin - shard_.slices[bucket].range.begin;
  device::for_each_part(first, range.size(), [&](std::int64_t begin, std::int64_t count) {
    const auto moment = moment_of(state);
    const device::HostArrays part(device_, all, begin, count, moment);
    float* to = values + (begin - first);
    if (moment)
      device::read_state(part.arrays(), *moment, part.begin(), count, to);
    else
      device::read_weights(part.arrays(), part.begin(), count, to);
  });
}

void ShardedState::write(State state, std::size_t bucket, Range range, const float* values) {
  const device::UpdateArrays all = arrays(bucket);
  const std::int64_t first = range.begin - shard_.slices[bucket].range.begin;
  device::for_each_part(first, range.size(), [&](std::int64_t begin, std::int64_t count) {
    const auto moment = moment_of(state);
    device::HostArrays part(device_, all, begin, count, moment);
    const float* from = values + (begin - first);
    if (moment)
      device::write_state(part.arrays(), *moment, part.begin(), count, from);
    else
      device::write_weights(part.arrays(), part.begin(), count, from);
    part.store();
  });
}

MemoryReport ShardedState::memory() const noexcept {
  const auto [m1, m2, v] = moment_bytes(states_, options_.state, shard_.elements);
  return {.parameter = parameters_.bytes(),
          .gradient = gradient_bytes(layout_, options_),
          .reduced_gradient = std::ssize(reduced_) * 4 * shard_.elements,
          .master = master_.bytes(),
          .m1 = m1,
          .m2 = m2,
          .v = v};
}

void read_frozen(const ShardedState& state, const Bucket& bucket, Range range, float* values) {
  std::vector<std::byte> bytes;
  device::for_each_part(range.begin, range.size(), [&](std::int64_t begin, std::int64_t count) {
    bytes.resize(static_cast<std::size_t>(count * size_of(bucket.dtype)));
    state.device().copy(bytes.data(), state.parameter_at(begin), bytes.size());
    for (std::int64_t i = 0; i < count; ++i)
      values[begin - range.begin + i] = device::load_value(bucket.dtype, bytes.data(), i);
  });
}

void write_frozen(const ShardedState& state, const Bucket& bucket, Range range,
                  const float* values) {
  std::vector<std::byte> bytes;
  device::for_each_part(range.begin, range.size(), [&](std::int64_t begin, std::int64_t count) {
    bytes.resize(static_cast<std::size_t>(count * size_of(bucket.dtype)));
    for (std::int64_t i = 0; i < count; ++i)
      device::store_value(bucket.dtype, bytes.data(), i, values[begin - range.begin + i]);
    state.device().copy(state.parameter_at(begin), bytes.data(), bytes.size());
  });
}

}  // namespace shardmix::optimizer
