#pragma once

/// Where the bytes are: the table of each rank's memory, for people.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/collectives.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix::train {

/// Every rank's report, on every rank. Collective.
[[nodiscard]] std::vector<MemoryReport> gather_memory(comm::Collectives& collectives,
                                                      const MemoryReport& own);

/// A heading, a row for each run of ranks that hold the same, and the sum of all ranks. Ends
/// without a newline.
[[nodiscard]] std::string memory_table(std::span<const MemoryReport> ranks);

}  // namespace shardmix::train
