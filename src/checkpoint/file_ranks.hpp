#pragma once

#include <vector>

#include "comm/topology.hpp"

namespace shardmix::checkpoint {

/// The ranks of each file. Above 1 rank a file the topology must be regular.
[[nodiscard]] std::vector<std::vector<int>> ranks_of_files(const comm::Topology& topology,
                                                           int ranks_per_file);

}  // namespace shardmix::checkpoint
