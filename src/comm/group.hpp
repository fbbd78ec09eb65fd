#pragma once

/// The ranks of a run: their communicator, where they are, and the watch over them.

#include <mpi.h>

#include <chrono>
#include <memory>

#include "comm/topology.hpp"
#include "comm/watch.hpp"

namespace shardmix::comm {

class Group {
 public:
  /// Collective over `communicator`, of which it takes ownership.
  Group(MPI_Comm communicator, std::chrono::milliseconds deadline);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return topology_.ranks; }
  [[nodiscard]] MPI_Comm communicator() const noexcept { return communicator_; }
  /// Another one of the same ranks, under the deadline. Collective.
  [[nodiscard]] MPI_Comm duplicate() const;
  [[nodiscard]] const Topology& topology() const noexcept { return topology_; }
  [[nodiscard]] Watch& watch() const noexcept { return *watch_; }
  /// Whether several threads of this process may call MPI.
  [[nodiscard]] bool allows_threads() const noexcept { return allows_threads_; }

 private:
  MPI_Comm communicator_;
  int rank_ = 0;
  Topology topology_;
  bool allows_threads_ = false;
  std::unique_ptr<Watch> watch_;
};

/// A communicator of the caller's that reports errors instead of ending the program. Collective.
[[nodiscard]] MPI_Comm duplicate(MPI_Comm communicator);

}  // namespace shardmix::comm
