#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shardmix::comm {

/// Non-blocking sends and receives of one operation.
class Messages {
 public:
  Messages(MPI_Comm communicator, int tag) : communicator_(communicator), tag_(tag) {}
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;

  /// MPI may use the memory until they are done. Not while an exception ends this rank: a peer may
  /// be gone.
  ~Messages();

  void send(const std::byte* data, std::int64_t bytes, int to);
  void receive(std::byte* data, std::int64_t bytes, int from);

  /// Whether all are done. Never waits.
  [[nodiscard]] bool done();

 private:
  MPI_Comm communicator_;
  int tag_;
  std::vector<MPI_Request> requests_;
};

}  // namespace shardmix::comm
