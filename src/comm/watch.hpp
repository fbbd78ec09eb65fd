#pragma once

/// Waiting with an end: no rank waits for another beyond the deadline, and all name the same
/// culprit.
///
/// Whoever waits polls. A process of the same node that is gone is noticed at once. When the
/// deadline has passed the waiting rank asks all others how far they are: who doesn't answer, or
/// isn't waiting too, is the culprit. The first verdict is sent to all, and each rank that waits
/// throws it. A rank that an exception ends says so itself.
///
/// After a verdict nothing of ours waits for other ranks or calls MPI, which may end a process that
/// meets a broken connection. Who is told a verdict gives no memory back either: late messages
/// would arrive in it, and a GPU that gives some back waits for all that is queued, and so for
/// ranks that are gone.

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/members.hpp"

namespace shardmix::comm {

class Watch {
 public:
  /// Takes ownership of `communicator`. `neighbours`: the ranks of this node.
  Watch(MPI_Comm communicator, std::vector<Member> members, const std::vector<int>& neighbours,
        std::chrono::milliseconds deadline);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// Polls `done` until it is true. Throws CommError that names the ranks at fault; also where
  /// `done` throws one.
  void wait(std::string_view what, const std::function<bool()>& done);

  /// As wait(), but without an end of its own: throws the verdict if there is one, or where a
  /// process of this node is gone. For who waits for something that isn't other ranks'.
  void look(std::string_view what);

  [[nodiscard]] std::chrono::milliseconds deadline() const noexcept { return deadline_; }

  /// This rank begins its next collective operation. Throws the verdict if there is one.
  void enter();

  /// As enter(), then calls `call`. Where that throws CommError, as MPI does at a broken
  /// connection, the ranks find out whose.
  void begin(std::string_view what, const std::function<void()>& call);

  /// Waits for an MPI request.
  void finish(MPI_Request& request, std::string_view what);

  /// While it lives, this thread may be held up by MPI or by a thread that is. Where that lasts
  /// beyond all deadlines the process ends itself: nothing else ends a call of MPI.
  class Guarded {
   public:
    explicit Guarded(Watch& watch) : watch_(watch) { ++watch_.guarded_; }
    ~Guarded() {
      --watch_.guarded_;
      ++watch_.turns_;
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

   private:
    Watch& watch_;
  };

  /// Answers other ranks' questions. From any thread.
  void listen();

  /// This rank's run ends: waits until all others' do. Who waits in another operation waits in
  /// vain. On a communicator of its own: where an error ends this rank, the others may be in a
  /// collective operation, which must not meet another one.
  void end();

  /// Tells the other ranks that an error ends this one, and which if that is known. It is over
  /// then.
  void leave(std::string_view error = {}) noexcept;

  /// Whether the other ranks are not to be waited for any more, and MPI not to be called: there is
  /// a verdict, this rank left, or an exception unwinds.
  [[nodiscard]] bool over() const noexcept { return over_ || std::uncaught_exceptions() > 0; }

  /// How often the verdict was thrown to who waited or began something.
  [[nodiscard]] int told() const noexcept { return told_; }

  /// For answers and verdicts, beyond the deadline.
  [[nodiscard]] std::chrono::milliseconds grace() const;

  /// Ends this process, which nothing else would: says the verdict, or `else_known`, and `why`.
  [[noreturn]] void end_process(std::string_view else_known, std::string_view why) noexcept;

 private:
  enum class State : std::int32_t { computes, waits, ends };
  struct Note;
  struct Sent;
  using Clock = std::chrono::steady_clock;

  void post(const Note& note, int to);
  void take(const Note& note, int from);
  [[nodiscard]] State state() const noexcept {
    if (ends_) return State::ends;
    return waiting_ > 0 ? State::waits : State::computes;
  }
  void guard();
  void throw_verdict();
  /// The verdict is known: sees that all hear of it. From now on it is over.
  void close();
  /// Until all have heard the verdict that this rank sent, and its own last answers have left.
  void settle();
  void look_for_dead(std::string_view what);
  /// Asks all ranks, and waits for answers or for `done`. True if it became true.
  bool inquire(std::string_view what, const std::function<bool()>& done);
  /// Concludes from the answers. `waited`: who waited for what.
  [[noreturn]] void judge(std::string_view waited);
  [[noreturn]] void conclude(const std::string& verdict, const std::vector<int>& culprits);
  /// Makes it the verdict, if there is none, and sends it to all but the culprits.
  void spread(const std::string& verdict, const std::vector<int>& culprits);

  MPI_Comm communicator_;
  int rank_;
  Members members_;
  std::chrono::milliseconds deadline_;
  std::atomic<std::int64_t> entered_ = 0;
  std::atomic<int> waiting_ = 0;  ///< above 0: in wait()
  std::atomic<bool> ends_ = false;
  std::atomic<bool> over_ = false;
  std::atomic<int> told_ = 0;
  std::mutex inquiry_turn_;  ///< of the thread that asks the others
  std::mutex mutex_;         ///< of what follows
  std::list<Sent> sent_;
  std::int32_t inquiry_ = 0;  ///< the current one's number
  struct Answer {
    std::int64_t entered = -1;  ///< below 0: none
    State state = State::computes;
  };
  std::vector<Answer> answers_;  ///< of each rank
  std::string verdict_;
  std::set<int> unheard_;         ///< were sent the verdict and haven't said that they have it
  std::atomic<int> guarded_ = 0;  ///< threads in calls that may not return
  std::atomic<std::int64_t> turns_ = 0;  ///< grows while those get on
  std::mutex guard_mutex_;
  std::condition_variable guard_wakes_;
  bool guard_ends_ = false;
  std::thread guard_;
};

}  // namespace shardmix::comm
