#pragma once

/// Which ranks share a node. Arithmetic alone.

#include <span>
#include <string>

namespace shardmix::comm {

/// What a rank sees of the group's nodes.
struct Topology {
  int ranks = 1;
  int nodes = 1;
  int node = 0;        ///< of this rank; nodes are numbered in the order of their first ranks
  int local_rank = 0;  ///< of this rank, among those of its node
  int local_size = 1;
  /// Every node holds equally many ranks, and they are consecutive.
  bool regular = true;

  bool operator==(const Topology&) const = default;

  /// The global rank of a local one on a node, of a regular topology.
  [[nodiscard]] int rank_at(int node_number, int local) const noexcept {
    return node_number * local_size + local;
  }
};

/// `first_ranks[r]` is the lowest rank on the node of rank r.
[[nodiscard]] Topology topology_of(std::span<const int> first_ranks, int rank);

/// "2 nodes of 4 ranks", or "5 ranks on 2 nodes, unequal".
[[nodiscard]] std::string describe(const Topology& topology);

}  // namespace shardmix::comm
