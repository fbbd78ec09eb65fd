#pragma once

/// Waiting with an end: no rank waits for another beyond the deadline, and all name the same
/// culprit.
///
/// Whoever waits polls. A process of the same node that is gone is noticed within milliseconds.
/// When the deadline has passed the waiting rank asks all others how far they are: who doesn't
/// answer, or is behind, is the culprit. The first verdict is sent to all, and each rank that waits
/// throws it. A rank that an exception ends says so itself.

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace shardmix::comm {

/// A rank's process.
struct Member {
  std::string host;
  std::int64_t process = 0;
  std::int64_t process_space = 0;  ///< in which `process` counts: containers have their own
};

/// This process as its peers may see it.
[[nodiscard]] Member this_member();

class Watch {
 public:
  /// Takes ownership of `communicator`. `neighbours`: the ranks of this node.
  Watch(MPI_Comm communicator, std::vector<Member> members, const std::vector<int>& neighbours,
        std::chrono::milliseconds deadline);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// This rank begins its next collective operation.
  void enter() noexcept { ++entered_; }

  /// Polls `done` until it is true. Throws CommError that names the ranks at fault; also where
  /// `done` throws one.
  void wait(std::string_view what, const std::function<bool()>& done);

  /// Waits for an MPI request.
  void finish(MPI_Request& request, std::string_view what);

  /// Answers other ranks' questions. From any thread.
  void listen();

  /// Tells the other ranks that an exception ends this one.
  void leave() noexcept;

 private:
  struct Note;
  struct Sent;
  using Clock = std::chrono::steady_clock;

  void post(const Note& note, int to);
  void take(const Note& note, int from);
  void throw_verdict();
  void look_for_dead(std::string_view what);
  /// Asks all ranks, and waits for answers or for `done`. True if it became true.
  bool inquire(std::string_view what, const std::function<bool()>& done, std::string_view cause);
  [[noreturn]] void conclude(const std::string& verdict, const std::vector<int>& culprits);
  [[nodiscard]] std::string describe(const std::vector<int>& ranks) const;

  MPI_Comm communicator_;
  int rank_ = 0;
  std::vector<Member> members_;
  std::chrono::milliseconds deadline_;
  std::vector<std::pair<int, int>> process_handles_;  ///< rank, and what poll() knows of it
  std::atomic<std::int64_t> entered_ = 0;
  std::mutex mutex_;  ///< of what follows
  std::list<Sent> sent_;
  std::int32_t inquiry_ = 0;           ///< the current one's number
  std::vector<std::int64_t> answers_;  ///< how far each rank is; below 0: not answered
  std::string verdict_;
};

}  // namespace shardmix::comm
