#pragma once

/// `shardmix bench collectives`: the reduction and the gather of all buckets, beside the bound that
/// memory or links set, and beside the MPI library's own.

#include <string>

#include "bench/contest.hpp"

namespace shardmix::bench {

struct CollectivesOptions : GroupOptions {
  DType dtype = DType::bf16;
};

/// Collective over MPI_COMM_WORLD, which must run. Rank 0 alone reports. Throws ConfigError.
void run_collectives(const CollectivesOptions& options, const Report& report);

/// Seconds of a reduction and a gather of everything over one transport, in a row. Collective.
[[nodiscard]] double exchange_seconds(Ranks& ranks, const CollectivesOptions& options,
                                      const std::string& collectives);

}  // namespace shardmix::bench
