#include "comm/watch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <thread>

#include "comm/backoff.hpp"
#include "comm/mpi_check.hpp"
#include "device/device.hpp"
#include "shardmix/error.hpp"

namespace shardmix::comm {

using std::chrono::milliseconds;

namespace {

constexpr int tag = 1;
constexpr milliseconds between_looks{20};
/// In which a message that was sent in time is found among others.
constexpr milliseconds delivery{20};
/// In which a neighbour that is gone may have left a verdict.
constexpr milliseconds legacy{200};

/// Counts a thread while it lives.
class Counted {
 public:
  explicit Counted(std::atomic<int>& count) : count_(count) { ++count_; }
  ~Counted() { --count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<int>& count_;
};

int rank_in(MPI_Comm communicator) {
  int rank = 0;
  check(MPI_Comm_rank(communicator, &rank), "MPI_Comm_rank");
  return rank;
}

double seconds(milliseconds time) {
  return static_cast<double>(time.count()) / 1000.0;
}

}  // namespace

enum class NoteKind : std::int32_t { question, answer, verdict, heard };

/// What ranks send each other about themselves. Small enough that MPI sends it without being asked
/// for it.
struct Watch::Note {
  NoteKind kind = NoteKind::question;
  std::int32_t inquiry = 0;
  std::int64_t entered = 0;
  State state = State::computes;
  std::array<char, 2000> text{};
};

struct Watch::Sent {
  Note note;
  MPI_Request request = MPI_REQUEST_NULL;
};

Watch::Watch(MPI_Comm communicator, std::vector<Member> members, const std::vector<int>& neighbours,
             milliseconds deadline)
    : communicator_(communicator),
      rank_(rank_in(communicator)),
      members_(std::move(members), rank_, neighbours),
      deadline_(deadline),
      answers_(static_cast<std::size_t>(members_.size())) {
  if (members_.size() > 1) guard_ = std::thread([this] { guard(); });
}

Watch::~Watch() {
  {
    const std::scoped_lock lock(guard_mutex_);
    guard_ends_ = true;
  }
  guard_wakes_.notify_all();
  if (guard_.joinable()) guard_.join();
  if (over()) {
    (void)new std::list<Sent>(std::move(sent_));  // MPI may go on reading them
    return;
  }
  for (Sent& s : sent_) {
    if (s.request != MPI_REQUEST_NULL) MPI_Request_free(&s.request);
  }
  MPI_Comm_free(&communicator_);
}

void Watch::guard() {
  // Its own turns are counted, not time: the process may be stopped for long.
  constexpr int most_turns = 20;
  const auto turn = (deadline_ + 2 * grace()) / most_turns;
  std::int64_t seen = 0;
  std::unique_lock lock(guard_mutex_);
  for (int turns = 0; turns < most_turns; ++turns) {
    if (guard_wakes_.wait_for(lock, turn, [this] { return guard_ends_; })) return;
    if (guarded_ == 0 || seen != turns_) turns = 0;
    seen = turns_;
  }
  lock.unlock();
  end_process("a connection to another rank may be broken", "MPI doesn't come back from a call");
}

void Watch::end_process(std::string_view else_known, std::string_view why) noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  const std::string_view known = lock.owns_lock() ? std::string_view(verdict_) : "";
  const std::string line = fmt::format("rank {}: {}; this process is ended, as {}\n", rank_,
                                       known.empty() ? else_known : known, why);
  std::fputs(line.c_str(), stderr);
  std::fflush(nullptr);
  std::_Exit(1);
}

void Watch::enter() {
  throw_verdict();
  ++entered_;
}

void Watch::begin(std::string_view what, const std::function<void()>& call) {
  enter();
  try {
    const Guarded guarded(*this);
    call();
  } catch (const CommError& error) {
    wait(what, [&]() -> bool { throw CommError(error); });
  }
}

milliseconds Watch::grace() const {
  return std::clamp(deadline_ / 4, milliseconds(200), milliseconds(5000));
}

void Watch::wait(std::string_view what, const std::function<bool()>& done) {
  throw_verdict();
  const Counted waiting(waiting_);
  const Guarded guarded(*this);
  std::string cause;  // what MPI threw: it met a broken connection, say
  const auto poll_done = [&] {
    try {
      return cause.empty() && done();
    } catch (const CommError& error) {
      cause = error.what();
      return false;
    }
  };
  const auto start = Clock::now();
  auto looked = start;
  Backoff backoff;
  for (;;) {
    if (poll_done()) return;
    ++turns_;
    backoff.pause();
    const auto now = Clock::now();
    if (now - looked < between_looks) continue;
    looked = now;
    listen();
    throw_verdict();
    look_for_dead(what);
    if (cause.empty() && now - start <= deadline_) continue;
    const std::unique_lock turn(inquiry_turn_, std::try_to_lock);
    if (!turn.owns_lock()) continue;
    if (inquire(what, poll_done)) return;
    judge(cause.empty()
              ? fmt::format("rank {} waited {:g} s for {}", rank_, seconds(deadline_), what)
              : fmt::format("rank {} waited for {} ({})", rank_, what, cause));
  }
}

void Watch::look(std::string_view what) {
  throw_verdict();
  const Guarded guarded(*this);
  listen();
  throw_verdict();
  look_for_dead(what);
}

void Watch::finish(MPI_Request& request, std::string_view what) {
  wait(what, [&] {
    int is_done = 0;
    check(MPI_Test(&request, &is_done, MPI_STATUS_IGNORE), "MPI_Test");
    return is_done != 0;
  });
}

void Watch::end() {
  ends_ = true;
  MPI_Request request = MPI_REQUEST_NULL;
  begin("the others to end", [&] { check(MPI_Ibarrier(communicator_, &request), "MPI_Ibarrier"); });
  finish(request, "the others to end");
}

void Watch::listen() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || over_) return;
  for (;;) {
    int arrived = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, tag, communicator_, &arrived, &status) != MPI_SUCCESS ||
        arrived == 0) {
      break;
    }
    Note note;
    if (MPI_Recv(&note, sizeof note, MPI_BYTE, status.MPI_SOURCE, tag, communicator_,
                 MPI_STATUS_IGNORE) != MPI_SUCCESS) {
      break;
    }
    take(note, status.MPI_SOURCE);
  }
  sent_.remove_if([](Sent& s) {
    int is_done = 0;
    return MPI_Test(&s.request, &is_done, MPI_STATUS_IGNORE) == MPI_SUCCESS && is_done != 0;
  });
}

void Watch::take(const Note& note, int from) {
  switch (note.kind) {
    case NoteKind::question:
      post({.kind = NoteKind::answer,
            .inquiry = note.inquiry,
            .entered = entered_.load(),
            .state = state()},
           from);
      break;
    case NoteKind::answer:
      if (note.inquiry == inquiry_)
        answers_[static_cast<std::size_t>(from)] = {note.entered, note.state};
      break;
    case NoteKind::verdict:
      if (verdict_.empty()) {
        verdict_ = note.text.data();
        // The sender's way to them may be broken.
        for (const int neighbour : members_.near()) {
          if (neighbour != from) post(note, neighbour);
        }
      }
      unheard_.erase(from);
      post({.kind = NoteKind::heard}, from);
      break;
    case NoteKind::heard:
      unheard_.erase(from);
      break;
  }
}

/// Errors are of no interest: the receiver may be gone.
void Watch::post(const Note& note, int to) {
  Sent& s = sent_.emplace_back(Sent{.note = note});
  if (MPI_Isend(&s.note, sizeof s.note, MPI_BYTE, to, tag, communicator_, &s.request) !=
      MPI_SUCCESS) {
    sent_.pop_back();
  }
}

void Watch::throw_verdict() {
  const Guarded guarded(*this);
  {
    const std::scoped_lock lock(mutex_);
    if (verdict_.empty()) return;
  }
  close();
  device::keep_memory();
  ++told_;
  throw CommError(verdict_);
}

void Watch::close() {
  if (!over_) settle();
  over_ = true;
}

void Watch::settle() {
  const auto start = Clock::now();
  const auto all_heard = [this] {
    const std::scoped_lock lock(mutex_);
    for (const int r : members_.find_dead()) unheard_.erase(r);
    return unheard_.empty();
  };
  while (Clock::now() < start + delivery || (!all_heard() && Clock::now() < start + grace())) {
    listen();
    std::this_thread::sleep_for(milliseconds(1));
  }
}

void Watch::look_for_dead(std::string_view what) {
  std::vector<int> dead = members_.find_dead();
  if (dead.empty()) return;
  // One that told why it ends is worth more than that it has ended. Who ended unasked and without a
  // word may have been ended by MPI, after the end of a rank of another node: its neighbours know.
  const auto killed = [this](int rank) { return members_.condition(rank).killed; };
  const bool has_others = std::ssize(members_.near()) + 1 < members_.size();
  const auto start = Clock::now();
  while (Clock::now() < start + legacy || (has_others && Clock::now() < start + legacy + grace() &&
                                           std::ranges::none_of(dead, killed))) {
    listen();
    throw_verdict();
    std::this_thread::sleep_for(milliseconds(1));
  }
  if (std::ranges::any_of(dead, killed))
    std::erase_if(dead, [&](int rank) { return !killed(rank); });
  conclude(
      fmt::format("{} died, while rank {} waited for {}", members_.describe(dead), rank_, what),
      dead);
}

bool Watch::inquire(std::string_view what, const std::function<bool()>& done) {
  const auto own = static_cast<std::size_t>(rank_);
  {
    const std::scoped_lock lock(mutex_);
    ++inquiry_;
    std::ranges::fill(answers_, Answer{});
    answers_[own] = {entered_.load(), state()};
    for (int r = 0; r < members_.size(); ++r) {
      if (r != rank_) post({.kind = NoteKind::question, .inquiry = inquiry_}, r);
    }
  }
  // All of it, even when all have answered: a run that was stopped as a whole has passed its
  // deadline when it goes on.
  for (const auto end = Clock::now() + grace(); Clock::now() < end;) {
    if (done()) return true;
    ++turns_;
    listen();
    throw_verdict();
    look_for_dead(what);
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

void Watch::judge(std::string_view waited) {
  std::vector<int> silent;
  std::vector<int> stopped;
  std::vector<int> elsewhere;  // of those that compute, who is least far
  std::vector<int> ended;
  {
    const std::scoped_lock lock(mutex_);
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (int r = 0; r < static_cast<int>(answers_.size()); ++r) {
      const Answer& answer = answers_[static_cast<std::size_t>(r)];
      if (answer.entered < 0) {
        silent.push_back(r);
        if (members_.condition(r).stopped) stopped.push_back(r);
      } else if (answer.state == State::ends) {
        ended.push_back(r);
      } else if (answer.state == State::computes && answer.entered <= least) {
        if (answer.entered < least) elsewhere.clear();
        least = answer.entered;
        elsewhere.push_back(r);
      }
    }
  }
  // Another one's silence may be due to it.
  if (!stopped.empty()) silent = stopped;
  if (!silent.empty()) {
    conclude(fmt::format("no answer from {}: stuck, stopped or cut off; {}",
                         members_.describe(silent), waited),
             silent);
  }
  if (!elsewhere.empty()) {
    conclude(fmt::format("at work on something else than the operation that the others wait in: "
                         "{}; {}",
                         members_.describe(elsewhere), waited),
             {});
  }
  if (!ended.empty() && ended.size() < answers_.size()) {
    conclude(fmt::format("ended while others go on: {}; {}", members_.describe(ended), waited), {});
  }
  conclude(fmt::format("no rank is missing, but {}: the network lost a message or is too slow for "
                       "the deadline, or the ranks do different things",
                       waited),
           {});
}

void Watch::spread(const std::string& verdict, const std::vector<int>& culprits) {
  const std::scoped_lock lock(mutex_);
  if (!verdict_.empty()) return;
  verdict_ = verdict;
  Note note{.kind = NoteKind::verdict};
  std::strncpy(note.text.data(), verdict.c_str(), note.text.size() - 1);
  for (int r = 0; r < members_.size(); ++r) {
    if (r == rank_ || std::ranges::find(culprits, r) != culprits.end()) continue;
    post(note, r);
    unheard_.insert(r);
  }
}

void Watch::conclude(const std::string& verdict, const std::vector<int>& culprits) {
  spread(verdict, culprits);
  throw_verdict();
  std::terminate();  // a verdict always throws
}

void Watch::leave(std::string_view error) noexcept {
  if (over_) return;
  const Guarded guarded(*this);
  try {
    listen();
    const std::string own = members_.describe({rank_});
    spread(error.empty()
               ? fmt::format("{} was ended by an error of its own; its message tells which", own)
               : fmt::format("{} was ended by an error of its own: {}", own, error),
           {});
    close();
  } catch (const std::exception&) {  // the caller's own error precedes it
  }
}

}  // namespace shardmix::comm
