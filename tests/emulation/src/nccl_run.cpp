// What a rank's device process does for NCCL's calls: it reads its peers' memory from their device
// processes. A rank goes on when all have read what they need.

#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "errors.hpp"
#include "nccl_shared.hpp"
#include "queue.hpp"

namespace emulation::nccl {
namespace {

constexpr std::size_t chunk = 256 << 10;

/// Thrown where this rank's communicator was aborted, or a peer is gone.
struct Ended {};

class Group {
 public:
  Group(Shared& shared, int rank) : shared_(shared), rank_(rank) {}

  void run_collective(const Call& call, std::uint64_t number);
  void run_messages(std::span<const Call> calls);
  /// Aborted, or a peer was lost: nothing is carried out any more.
  [[nodiscard]] bool is_over() const {
    return shared_.ranks[rank_].is_aborted || shared_.ranks[rank_].has_lost_peer;
  }

 private:
  Rank& own() { return shared_.ranks[rank_]; }
  int size() const { return shared_.size; }

  template <class Ready>
  void wait(const Ready& ready) {
    wait_until(shared_.bell, [&] { return is_over() || ready(); });
    if (is_over()) throw Ended{};
  }

  void read(int peer, const std::byte* from, std::byte* to, std::size_t bytes);
  void compare(const Call& call, std::uint64_t number, int peer);
  void require_same_registration(const Call& call, bool is_registered, int peer) const;
  [[nodiscard]] std::vector<std::byte> gathered(const Call& call, std::uint64_t number);
  [[nodiscard]] std::vector<std::byte> reduced(const Call& call, std::uint64_t number,
                                               std::size_t begin, std::size_t bytes);
  [[nodiscard]] const Call& call_of(int rank, std::uint64_t number) const {
    return shared_.ranks[rank].calls[number % remembered_calls];
  }

  Shared& shared_;
  int rank_;
};

void Group::read(int peer, const std::byte* from, std::byte* to, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes; done += chunk) {
    if (done != 0) delay();
    const std::size_t part = std::min(chunk, bytes - done);
    const iovec local{to + done, part};
    const iovec remote{const_cast<std::byte*>(from) + done, part};
    const ssize_t got = process_vm_readv(shared_.ranks[peer].process, &local, 1, &remote, 1, 0);
    if (got == static_cast<ssize_t>(part)) continue;
    if (got < 0 && errno == ESRCH) {
      own().has_lost_peer = true;
      throw Ended{};
    }
    fatal("NCCL's rank {} couldn't read {} bytes at {} of rank {}: {}", rank_, part,
          static_cast<const void*>(from + done), peer,
          got < 0 ? std::strerror(errno) : "they aren't all there");
  }
}

/// Two ranks must make the same calls in the same order.
void Group::compare(const Call& call, std::uint64_t number, int peer) {
  const Call& other = call_of(peer, number);
  const bool has_root = call.operation == Operation::broadcast;
  const bool reduces =
      call.operation == Operation::all_reduce || call.operation == Operation::reduce_scatter;
  if (other.operation == call.operation && other.type == call.type && other.count == call.count &&
      (!has_root || other.peer == call.peer) && (!reduces || other.op == call.op)) {
    require_same_registration(call, other.is_registered, peer);
    return;
  }
  fatal("NCCL's collective {} of rank {} is {}, but of rank {} it is {}", number, rank_,
        describe(call), peer, describe(other));
}

/// NCCL wants all ranks to register the memory of an operation, or none.
void Group::require_same_registration(const Call& call, bool is_registered, int peer) const {
  if (call.count == 0 || call.is_registered == is_registered) return;
  fatal("the memory of {} is {} on rank {}, but {} on rank {}", describe(call),
        call.is_registered ? "registered" : "not registered", rank_,
        is_registered ? "registered" : "not registered", peer);
}

/// Adds from another rank on in each chunk: an order that nobody may rely on.
std::vector<std::byte> Group::reduced(const Call& call, std::uint64_t number, std::size_t begin,
                                      std::size_t bytes) {
  std::vector<std::byte> total(bytes);
  std::vector<std::byte> other(std::min(chunk, bytes));
  for (std::size_t done = 0; done < bytes; done += chunk) {
    const std::size_t part = std::min(chunk, bytes - done);
    const std::uint64_t first = number + (begin + done) / chunk;
    for (int i = 0; i < size(); ++i) {
      const auto peer = static_cast<int>((first + static_cast<std::uint64_t>(i)) %
                                         static_cast<std::uint64_t>(size()));
      const std::byte* from = call_of(peer, number).from + begin + done;
      read(peer, from, i == 0 ? total.data() + done : other.data(), part);
      if (i != 0) combine(call.type, call.op, total.data() + done, other.data(), part);
    }
  }
  return total;
}

/// What this rank gets.
std::vector<std::byte> Group::gathered(const Call& call, std::uint64_t number) {
  const std::size_t bytes = call.count * size_of(call.type);
  if (call.operation == Operation::all_reduce) return reduced(call, number, 0, bytes);
  if (call.operation == Operation::reduce_scatter)
    return reduced(call, number, static_cast<std::size_t>(rank_) * bytes, bytes);
  std::vector<std::byte> all;
  if (call.operation == Operation::broadcast) {
    all.resize(bytes);
    read(call.peer, call_of(call.peer, number).from, all.data(), bytes);
    return all;
  }
  all.resize(bytes * static_cast<std::size_t>(size()));
  for (int peer = 0; peer < size(); ++peer)
    read(peer, call_of(peer, number).from, all.data() + static_cast<std::size_t>(peer) * bytes,
         bytes);
  return all;
}

void Group::run_collective(const Call& call, std::uint64_t number) {
  own().calls[number % remembered_calls] = call;
  own().called = number;
  ring(shared_.bell);
  for (int peer = 0; peer < size(); ++peer) {
    wait([&] { return shared_.ranks[peer].called >= number; });
    compare(call, number, peer);
  }
  const std::vector<std::byte> result = gathered(call, number);
  own().done = number;
  ring(shared_.bell);
  for (int peer = 0; peer < size(); ++peer)
    wait([&] { return shared_.ranks[peer].done >= number; });
  std::memcpy(call.to, result.data(), result.size());
}

/// Sends and receives go on together; those with one peer in their order.
void Group::run_messages(std::span<const Call> calls) {
  std::vector<bool> is_done(calls.size(), false);
  std::vector<std::uint64_t> posted(calls.size(), 0);
  const auto step = [&] {
    bool moved = false;
    bool is_waited_for[2][most_ranks] = {};  // an earlier call with the peer isn't over
    for (std::size_t c = 0; c < calls.size(); ++c) {
      const Call& call = calls[c];
      const bool sends = call.operation == Operation::send;
      if (is_done[c] || !call.is_point_to_point() || is_waited_for[sends ? 0 : 1][call.peer])
        continue;
      const std::size_t bytes = call.count * size_of(call.type);
      if (sends) {
        Mailbox& box = shared_.mailboxes[rank_][call.peer];
        if (posted[c] == 0) {
          if (box.posted - box.taken == mailbox_messages) {
            is_waited_for[0][call.peer] = true;
            continue;
          }
          posted[c] = box.posted + 1;
          box.messages[box.posted % mailbox_messages] = {call.from, bytes, call.is_registered};
          box.posted = posted[c];
          moved = true;
        }
        is_done[c] = box.taken >= posted[c];
      } else {
        Mailbox& box = shared_.mailboxes[call.peer][rank_];
        if (box.posted > box.taken) {
          const Message message = box.messages[box.taken % mailbox_messages];
          if (message.bytes != bytes) {
            fatal("NCCL's rank {} receives {} bytes from rank {}, which sends {}, as message {}",
                  rank_, bytes, call.peer, message.bytes, box.taken + 1);
          }
          require_same_registration(call, message.is_registered, call.peer);
          read(call.peer, message.from, call.to, bytes);
          box.taken.fetch_add(1);
          is_done[c] = true;
        }
        if (!is_done[c]) is_waited_for[1][call.peer] = true;
      }
      moved = moved || is_done[c];
    }
    return moved;
  };
  const auto are_done = [&] {
    for (std::size_t c = 0; c < calls.size(); ++c) {
      if (calls[c].is_point_to_point() && !is_done[c]) return false;
    }
    return true;
  };
  while (!are_done()) {
    wait([&] {
      const bool moved = step();
      if (moved) ring(shared_.bell);
      return moved;
    });
  }
}

}  // namespace

void run_group(Shared& shared, int rank, std::uint64_t number, std::uint64_t first_collective,
               std::span<const Call> calls) {
  Rank& own = shared.ranks[rank];
  Group group(shared, rank);
  try {
    wait_until(shared.bell, [&] { return group.is_over() || own.groups_done == number - 1; });
    if (group.is_over()) throw Ended{};
    for (const Call& call : calls) {
      if (!call.is_point_to_point()) group.run_collective(call, first_collective++);
    }
    group.run_messages(calls);
  } catch (const Ended&) {
  }
  own.groups_done = number;
  ring(shared.bell);
}

}  // namespace emulation::nccl
