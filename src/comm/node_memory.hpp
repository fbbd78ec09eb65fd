#pragma once

/// Memory that all ranks of a node address, and counters by which they tell each other how far they
/// are.
///
/// Each rank's part is an anonymous file in memory (memfd), which its peers open through /proc: it
/// has no name that a killed run could leave behind, and no limit but the node's memory (a
/// container's /dev/shm is often 64 MB).

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/group.hpp"

namespace shardmix::comm {

/// How far a rank is. Each counts operations, which all ranks begin in the same order.
struct alignas(64) NodeCounters {
  std::atomic<std::int64_t> posted = 0;    ///< reductions begun: its buckets may be read
  std::atomic<std::int64_t> finished = 0;  ///< reductions it is done with
  std::atomic<std::int64_t> written = 0;   ///< gathers of which it has written all that it writes
};

class NodeMemory {
 public:
  /// Collective over the group of `collectives`, which must outlive this object.
  explicit NodeMemory(Collectives& collectives);
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

  [[nodiscard]] NodeCounters& own() const noexcept { return *counters_[own_rank()]; }
  /// Whether all ranks of the node have reached `count` in a counter.
  [[nodiscard]] bool all_reached(std::atomic<std::int64_t> NodeCounters::*counter,
                                 std::int64_t count) const noexcept;

 private:
  [[nodiscard]] std::size_t own_rank() const noexcept;
  [[nodiscard]] std::vector<std::byte*> map(std::int64_t bytes);
  void unmap(const std::vector<std::byte*>& views, std::int64_t bytes) noexcept;

  Collectives& collectives_;
  std::vector<NodeCounters*> counters_;  ///< of each rank of the node
  /// By the end of this rank's view: the first beyond an address holds it.
  std::map<const std::byte*, std::vector<std::byte*>> mapped_;
};

}  // namespace shardmix::comm
