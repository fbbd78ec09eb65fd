#include "checkpoint/file_ranks.hpp"

namespace shardmix::checkpoint {

std::vector<std::vector<int>> ranks_of_files(const comm::Topology& topology, int ranks_per_file) {
  std::vector<std::vector<int>> files;
  for (int rank = 0; rank < topology.ranks; ++rank) {
    // A node's ranks follow each other.
    const int local = ranks_per_file == 1 ? 0 : rank % topology.local_size;
    if (local % ranks_per_file == 0) files.emplace_back();
    files.back().push_back(rank);
  }
  return files;
}

}  // namespace shardmix::checkpoint
