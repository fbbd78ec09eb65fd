#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "bench/timing.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::bench {

/// The ranks that measure together.
class Ranks {
 public:
  /// `threads` of each rank; 0: its share of the node's cores.
  Ranks(DeviceKind device, int threads)
      : runtime_(adopt(MPI_COMM_WORLD, {.device = device, .threads = threads})) {}

  /// Seconds of the slowest rank, which all begin at once.
  template <class Work>
  [[nodiscard]] double time(const Work& work) {
    collectives().barrier();
    const double own = seconds([&] {
      work();
      device().synchronize();
    });
    std::array<std::int64_t, 1> longest{static_cast<std::int64_t>(std::llround(1e9 * own))};
    collectives().all_reduce_max(longest);
    return 1e-9 * static_cast<double>(longest[0]);
  }

  [[nodiscard]] comm::Collectives& collectives() const { return runtime_.impl().collectives(); }
  [[nodiscard]] device::Device& device() const { return *runtime_.impl().device; }
  [[nodiscard]] const comm::Topology& topology() const { return runtime_.impl().group->topology(); }
  [[nodiscard]] const Runtime& runtime() const { return runtime_; }
  [[nodiscard]] Runtime& runtime() { return runtime_; }
  [[nodiscard]] int size() const { return runtime_.size(); }

 private:
  Runtime runtime_;
};

}  // namespace shardmix::bench
