#pragma once

/// Memory that all ranks of a node address, and counters by which they tell each other how far they
/// are.
///
/// On hosts each rank's part is an anonymous file in memory (memfd), which its peers open through
/// /proc: it has no name that a killed run could leave behind, and no limit but the node's memory
/// (a container's /dev/shm is often 64 MB). On GPUs it is memory of the rank's own, opened by its
/// peers as device_share.hpp has it; the counters are on the host nevertheless.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/device_share.hpp"
#include "comm/group.hpp"

namespace shardmix::comm {

/// How far a rank is. Each counts operations, which all ranks begin in the same order.
struct alignas(64) NodeCounters {
  std::atomic<std::int64_t> posted = 0;    ///< reductions begun: its buckets may be read
  std::atomic<std::int64_t> finished = 0;  ///< reductions it is done with
  std::atomic<std::int64_t> written = 0;   ///< gathers of which it has written all that it writes
  std::atomic<std::int64_t> summed = 0;    ///< sums on the device of which its part may be read
  std::atomic<std::int64_t> closed = 0;    ///< buffers on GPUs of which it has closed its peers'

  [[nodiscard]] std::atomic<std::int64_t>& of(Mark mark) noexcept {
    return mark == Mark::posted     ? posted
           : mark == Mark::finished ? finished
           : mark == Mark::written  ? written
                                    : summed;
  }
};

class NodeMemory {
 public:
  /// Collective over the group of `collectives`, which must outlive this object.
  /// `gpu`: where its memory is; null: on the host.
  explicit NodeMemory(Collectives& collectives, device::Device* gpu = nullptr);
  ~NodeMemory();
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;

  /// Collective. Zeroed.
  [[nodiscard]] device::Buffer allocate(std::int64_t bytes);

  /// See Collectives.
  static void discard(std::byte* memory, std::int64_t bytes);

  /// Where each rank of the node, this one too, has what this one has at `own`, `bytes` in memory
  /// of allocate().
  [[nodiscard]] std::vector<std::byte*> views(std::byte* own, std::int64_t bytes) const;

  /// This rank has come so far with what it queued, on `queue` if that isn't the device's own:
  /// one more, or to `count`.
  void advance(Mark mark);
  void reach(Mark mark, std::int64_t count, void* queue = nullptr);
  [[nodiscard]] std::int64_t reached(Mark mark) const noexcept;
  /// Whether all ranks of the node have reached `count` in a counter.
  [[nodiscard]] bool all_reached(Mark mark, std::int64_t count) const noexcept;
  /// Waits until they have, and lets what is queued from now on wait for what they queued before.
  void await(Mark mark, std::int64_t count, std::string_view what);
  /// Lets another queue of the device wait, too, for what they queued before.
  void order(Mark mark, std::int64_t count, void* queue);

 private:
  [[nodiscard]] std::size_t own_rank() const noexcept;
  [[nodiscard]] std::vector<std::byte*> map(std::int64_t bytes);
  void unmap(const std::vector<std::byte*>& views, std::int64_t bytes) noexcept;
  /// The same of memory on GPUs.
  [[nodiscard]] std::vector<std::byte*> open_peers(std::byte* own);
  /// Closes its peers', and waits until they have closed its own: then that may be freed.
  void close_peers(const std::vector<std::byte*>& views) noexcept;
  /// The number of the node's first rank; of a regular topology.
  [[nodiscard]] std::size_t first_rank() const noexcept;

  Collectives& collectives_;
  device::Device* gpu_;
  std::unique_ptr<DeviceShare> share_;  ///< null on a host
  std::int64_t closed_ = 0;
  std::vector<NodeCounters*> counters_;  ///< of each rank of the node
  /// By the end of this rank's view: the first beyond an address holds it.
  std::map<const std::byte*, std::vector<std::byte*>> mapped_;
};

}  // namespace shardmix::comm
