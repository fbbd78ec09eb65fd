#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shardmix::comm {

/// Non-blocking sends and receives of one operation. MPI may use their memory until they are done.
class Messages {
 public:
  Messages(MPI_Comm communicator, int tag) : communicator_(communicator), tag_(tag) {}
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;

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
