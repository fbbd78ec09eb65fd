#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

#include "shardmix/checkpoints.hpp"
#include "shardmix/mpi.hpp"
#include "support/fixture.hpp"

namespace shardmix::testing {

/// A directory that all ranks share for one test, removed at its end.
class SharedDirectory {
 public:
  SharedDirectory() {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    int id = static_cast<int>(getpid());
    MPI_Bcast(&id, 1, MPI_INT, 0, MPI_COMM_WORLD);
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("shardmix-test-" + std::to_string(id) + "-" + std::to_string(count++));
    if (rank == 0) std::filesystem::create_directories(path_);
    MPI_Barrier(MPI_COMM_WORLD);
  }
  ~SharedDirectory() {
    MPI_Barrier(MPI_COMM_WORLD);
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    std::error_code ignored;
    if (rank == 0) std::filesystem::remove_all(path_, ignored);
  }
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

/// Steps that give every slot the same gradient, so that no number of ranks changes a bit (a power
/// of two: exactly).
inline void train_steps(ShardedOptimizer& optimizer, int steps) {
  for (int i = 0; i < steps; ++i) {
    write_gradients(optimizer, static_cast<std::uint32_t>(optimizer.clocks().step + 1), 0);
    optimizer.step();
  }
}

inline const AdEMAMix test_rule{.lr = cosine(1e-2, {.warmup = 2, .steps = 100}), .beta3 = 0.999};

}  // namespace shardmix::testing
