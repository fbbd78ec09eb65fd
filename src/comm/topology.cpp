#include "comm/topology.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace shardmix::comm {

Topology topology_of(std::span<const int> first_ranks, int rank) {
  Topology t;
  t.ranks = static_cast<int>(first_ranks.size());
  t.nodes = 0;
  const auto own = static_cast<std::size_t>(rank);
  for (std::size_t r = 0; r < first_ranks.size(); ++r) {
    const bool is_first = first_ranks[r] == static_cast<int>(r);
    if (is_first && first_ranks[r] < first_ranks[own]) ++t.node;
    t.nodes += is_first ? 1 : 0;
    if (first_ranks[r] == first_ranks[own] && r < own) ++t.local_rank;
  }
  t.local_size = static_cast<int>(std::ranges::count(first_ranks, first_ranks[own]));
  for (std::size_t r = 0; r < first_ranks.size(); ++r) {
    const int number = static_cast<int>(r);
    t.regular = t.regular && first_ranks[r] == number - number % t.local_size;
  }
  t.regular = t.regular && t.ranks == t.nodes * t.local_size;
  return t;
}

std::string describe(const Topology& t) {
  const auto count = [](int n, std::string_view what) {
    return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
  };
  if (t.nodes == 1) return count(t.ranks, "rank") + " on one node";
  if (t.regular)
    return fmt::format("{} of {}", count(t.nodes, "node"), count(t.local_size, "rank"));
  return fmt::format("{} on {}, in no regular order", count(t.ranks, "rank"),
                     count(t.nodes, "node"));
}

}  // namespace shardmix::comm
