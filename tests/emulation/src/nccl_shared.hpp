#pragma once

/// What the ranks of an emulated communicator share, and what a rank's device process is told to
/// do.

#include <nccl.h>

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

namespace emulation::nccl {

constexpr int most_ranks = 16;
constexpr std::size_t remembered_calls = 64;
constexpr std::size_t mailbox_messages = 16;

enum class Operation : std::uint8_t {
  send,
  receive,
  all_reduce,
  reduce_scatter,
  all_gather,
  broadcast
};

/// One operation as a rank called it.
struct Call {
  Operation operation = Operation::send;
  ncclDataType_t type = ncclInt8;
  ncclRedOp_t op = ncclSum;
  int peer = 0;  ///< or the root
  std::uint64_t count = 0;
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  bool is_registered = false;  ///< all memory that this rank reads and writes

  [[nodiscard]] bool is_point_to_point() const {
    return operation == Operation::send || operation == Operation::receive;
  }
};
/// "ncclAllReduce of 5 values of type 7, operation 0"
[[nodiscard]] std::string describe(const Call& call);
[[nodiscard]] std::size_t size_of(ncclDataType_t type);

struct Message {
  const std::byte* from;
  std::uint64_t bytes;
  bool is_registered;
};

/// Messages from one rank to another, in the order of its sends.
struct Mailbox {
  std::atomic<std::uint64_t> posted{0};
  std::atomic<std::uint64_t> taken{0};
  Message messages[mailbox_messages];
};

struct Rank {
  std::atomic<int> host{0};
  std::atomic<int> process{0};  ///< of its device
  std::atomic<int> gpu{0};
  std::atomic<bool> is_aborted{false};
  std::atomic<bool> has_lost_peer{false};
  std::atomic<std::uint64_t> groups_done{0};
  std::atomic<std::uint64_t> called{0};  ///< collectives that it has come to
  std::atomic<std::uint64_t> done{0};    ///< collectives whose inputs it has read
  Call calls[remembered_calls];
  std::atomic<std::uint64_t> windows{0};  ///< for which it has called
  std::uint64_t window_bytes[remembered_calls];
};

struct Shared {
  std::atomic<std::uint32_t> bell{0};
  std::atomic<int> size{0};
  std::atomic<int> joined{0};
  Rank ranks[most_ranks];
  Mailbox mailboxes[most_ranks][most_ranks];  ///< from, to
};

/// Device process: carries out the calls of a group, the `number`th of this rank.
void run_group(Shared& shared, int rank, std::uint64_t number, std::uint64_t first_collective,
               std::span<const Call> calls);

/// total = op(total, other), `bytes` bytes of values.
void combine(ncclDataType_t type, ncclRedOp_t op, std::byte* total, const std::byte* other,
             std::size_t bytes);

}  // namespace emulation::nccl
