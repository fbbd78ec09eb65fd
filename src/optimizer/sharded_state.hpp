#pragma once

/// What a rank holds: the flat parameter and gradient buffers, and its shard of the state.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "comm/collectives.hpp"
#include "device/device.hpp"
#include "device/storage.hpp"
#include "layout/layout.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix::optimizer {

/// The per-element arrays that a checkpoint stores.
enum class State : std::uint8_t { master, m1, m2, v };
inline constexpr std::array all_states{State::master, State::m1, State::m2, State::v};

[[nodiscard]] constexpr std::string_view name_of(State state) noexcept {
  constexpr std::array<std::string_view, 4> names{"master", "m1", "m2", "v"};
  return names[static_cast<std::size_t>(state)];
}

/// Levels of partial sums that a step of `micro_batches` needs. The sum over micro-batches is a
/// fixed binary tree, built as a binary counter: after n of them one partial sum is held for each 1
/// among n's binary digits.
[[nodiscard]] std::size_t levels_for(std::int64_t micro_batches) noexcept;

/// Bytes of the gradients that a rank holds at most.
[[nodiscard]] std::int64_t gradient_bytes(const layout::Layout& layout,
                                          const OptimizerOptions& options) noexcept;

/// Bytes of one element's master weight.
[[nodiscard]] std::int64_t master_bytes(DType dtype, Master master) noexcept;

/// Bytes of a shard of `elements` of m1, m2 and v in a format, in this order.
[[nodiscard]] std::array<std::int64_t, 3> moment_bytes(const RuleStates& states, StateFormat format,
                                                       std::int64_t elements) noexcept;

class ShardedState {
 public:
  /// `parameters` and `gradients` are the flat buffers of the layout's sizes.
  ShardedState(device::Device& device, layout::Layout layout, device::Buffer parameters,
               device::Buffer gradients, const RuleStates& states, int rank, int size,
               const OptimizerOptions& options);

  [[nodiscard]] const layout::Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] const layout::Shard& shard() const noexcept { return shard_; }
  [[nodiscard]] const RuleStates& states() const noexcept { return states_; }
  [[nodiscard]] bool has(State state) const noexcept;

  /// The arrays of one rule's states, for this shard.
  struct Moments {
    device::Buffer m1;
    device::Buffer m2;
    device::Buffer v;
    device::Buffer words;
    device::Buffer scales;
  };
  /// Zeroed. Throws DeviceError where there is no room.
  [[nodiscard]] Moments make_moments(const RuleStates& states) const;
  /// Goes over to `states` in `fresh`, made for them: what both have is kept, what this has alone
  /// is freed. A sum in place of an average counts as another m2.
  void set_states(const RuleStates& states, Moments fresh);

  [[nodiscard]] std::byte* parameter_at(std::int64_t element) const noexcept;
  [[nodiscard]] std::byte* gradient_at(std::int64_t element) const noexcept;
  /// The fp32 sum of the ranks' gradients over slice `bucket` of the shard; levels above 0 hold
  /// partial sums of micro-batches.
  [[nodiscard]] float* reduced_gradient(std::size_t bucket, std::size_t level = 0) const noexcept;
  /// Allocates the levels below `count` that aren't there yet.
  void reserve_levels(std::size_t count);

  /// A bucket of the parameter or gradient buffer, cut for the ranks.
  [[nodiscard]] comm::SlicedBucket sliced_parameters(std::size_t bucket) const;
  [[nodiscard]] comm::SlicedBucket sliced_gradients(std::size_t bucket) const;

  /// The memory of slice `bucket`, but for its random keys.
  [[nodiscard]] device::UpdateArrays arrays(std::size_t bucket) const;

  void zero_gradients();
  [[nodiscard]] std::span<std::byte> all_gradients() const noexcept;
  /// The whole parameter buffer of this rank.
  [[nodiscard]] std::span<std::byte> all_parameters() const noexcept;
  // What follows reads and writes at once: what is queued for that memory must be done.

  /// Starts the master weights at the parameters' values.
  void start_master();

  /// Copies a part of this rank's slice `bucket` of a state to or from fp32. Writing `master`
  /// writes the parameter of this rank too. read() may be called from any thread.
  void read(State state, std::size_t bucket, layout::Range range, float* values) const;
  void write(State state, std::size_t bucket, layout::Range range, const float* values);

  [[nodiscard]] device::Device& device() const noexcept { return device_; }

  [[nodiscard]] MemoryReport memory() const noexcept;

 private:
  [[nodiscard]] static device::UpdateArrays arrays_of(const Moments& moments,
                                                      const RuleStates& states);
  [[nodiscard]] comm::SlicedBucket sliced(const device::Buffer& buffer, std::size_t bucket) const;

  device::Device& device_;
  layout::Layout layout_;
  layout::Shard shard_;
  int size_;
  OptimizerOptions options_;
  RuleStates states_;
  device::Buffer parameters_;
  device::Buffer gradients_;
  std::vector<device::Buffer> reduced_;     ///< by level
  std::vector<std::int64_t> master_begin_;  ///< of each slice, in bytes of master_
  device::Buffer master_;
  Moments moments_;
};

/// Frozen parameters have no state: their values are read and written in the parameter buffer.
void read_frozen(const ShardedState& state, const layout::Bucket& bucket, layout::Range range,
                 float* values);
void write_frozen(const ShardedState& state, const layout::Bucket& bucket, layout::Range range,
                  const float* values);

}  // namespace shardmix::optimizer
