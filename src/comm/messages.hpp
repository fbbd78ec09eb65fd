#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace shardmix::comm {

/// Non-blocking sends and receives of one operation. From begin() until they are done MPI may use
/// their memory.
class Messages {
 public:
  Messages(MPI_Comm communicator, int tag) : communicator_(communicator), tag_(tag) {}
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;

  /// Plans it.
  void send(const std::byte* data, std::int64_t bytes, int to);
  /// Plans it. done() calls `then`, if any, when it has arrived.
  void receive(std::byte* data, std::int64_t bytes, int from, std::function<void()> then = {});

  /// Begins what is planned, in that order.
  void begin();
  /// Begins what is planned. True when all is done. Never waits.
  [[nodiscard]] bool done();

 private:
  struct Planned {
    bool is_send = false;
    std::byte* data = nullptr;
    std::int64_t bytes = 0;
    int peer = 0;
    std::function<void()> then = {};
  };
  /// A message that was begun.
  struct Begun {
    int parts_left = 0;
    std::function<void()> then;
  };

  MPI_Comm communicator_;
  int tag_;
  std::vector<Planned> planned_;
  std::vector<Begun> begun_;
  std::vector<MPI_Request> requests_;  ///< one for each part; null where it is done
  std::vector<std::size_t> begun_of_;  ///< a request's message
  std::vector<int> completed_;
  std::size_t requests_left_ = 0;
};

}  // namespace shardmix::comm
