#pragma once

/// What a running optimizer has to store.

#include <memory>
#include <span>
#include <vector>

#include "checkpoint/shard_source.hpp"
#include "device/device.hpp"
#include "optimizer/sharded_state.hpp"

namespace shardmix::checkpoint {

/// The optimizer's own memory, which must stay as it is while this is used.
[[nodiscard]] std::unique_ptr<ShardSource> live_shard(const optimizer::ShardedState& state,
                                                      int rank, int size);

/// A copy, to be stored while the optimizer goes on. It keeps its memory from one to the next:
/// touching new memory would take longer than copying.
class Snapshot final : public ShardSource {
 public:
  void take(const ShardSource& source);
  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override;

 private:
  std::unique_ptr<device::Device> host_ = device::host_device(1);
  std::vector<device::Buffer> values_;  ///< of each array
};

}  // namespace shardmix::checkpoint
