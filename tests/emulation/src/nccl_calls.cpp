// NCCL's operations: checked, put together to groups, and given to streams.

#include <cstring>
#include <map>

#include "arena.hpp"
#include "nccl_communicator.hpp"
#include "queue.hpp"

namespace emulation::nccl {
namespace {

struct Member {
  Communicator* communicator;
  cudaStream_t stream;
  Call call;
};

thread_local int depth = 0;
thread_local std::vector<Member> members;

/// What a group's command begins with; its calls follow.
struct Head {
  Shared* shared;
  int rank;
  std::uint64_t number;
  std::uint64_t first_collective;
  std::size_t calls;
};

/// One group on one stream.
void prepare(Communicator& c, cudaStream_t stream, const std::vector<Call>& calls) {
  const Head head{c.shared, c.rank, ++c.groups, c.collectives + 1, calls.size()};
  for (const Call& call : calls) c.collectives += call.is_point_to_point() ? 0 : 1;
  Command made;
  made.run = [](std::byte* payload) {
    const Head own = *reinterpret_cast<const Head*>(payload);
    run_group(*own.shared, own.rank, own.number, own.first_collective,
              {reinterpret_cast<const Call*>(payload + sizeof(Head)), own.calls});
  };
  made.payload.resize(sizeof head + calls.size() * sizeof(Call));
  std::memcpy(made.payload.data(), &head, sizeof head);
  std::memcpy(made.payload.data() + sizeof head, calls.data(), calls.size() * sizeof(Call));
  c.pending.emplace_back(stream, std::move(made));
}

ncclResult_t end_group() {
  std::map<Communicator*, std::map<cudaStream_t, std::vector<Call>>> sorted;
  for (const Member& m : members) sorted[m.communicator][m.stream].push_back(m.call);
  members.clear();
  ncclResult_t result = ncclSuccess;
  for (const auto& [communicator, streams] : sorted) {
    for (const auto& [stream, calls] : streams) prepare(*communicator, stream, calls);
    if (const ncclResult_t own = begin_call(*communicator); own != ncclSuccess) result = own;
  }
  return result;
}

/// Memory that NCCL reads or writes must be within reach of the device.
ncclResult_t check_memory(const void* memory, std::size_t bytes, const Call& call) {
  if (bytes == 0) return ncclSuccess;
  const Allocation* held = find(memory);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  if (held != nullptr && address + bytes <= held->begin + held->bytes) return ncclSuccess;
  return refuse(ncclInvalidArgument, "{}: {} bytes at {:#x} aren't memory of a device: {}",
                describe(call), bytes, address, emulation::describe(address));
}

ncclResult_t add(const char* name, ncclComm_t communicator, cudaStream_t stream, const Call& call) {
  if (const ncclResult_t result = open_settled(communicator, name); result != ncclSuccess)
    return result;
  if (call.type < 0 || call.type >= ncclNumTypes || call.op < ncclSum || call.op > ncclMin)
    return refuse(ncclInvalidArgument, "{}: unknown type or operation", describe(call));
  if (call.peer < 0 || call.peer >= communicator->size)
    return refuse(ncclInvalidArgument, "{}: there is no rank {} of {}", name, call.peer,
                  communicator->size);
  const std::size_t bytes = call.count * size_of(call.type);
  const auto ranks = static_cast<std::size_t>(communicator->size);
  const bool scatters = call.operation == Operation::reduce_scatter;
  const bool gathers = call.operation == Operation::all_gather;
  const bool reads = call.from != nullptr &&
                     (call.operation != Operation::broadcast || call.peer == communicator->rank);
  if (reads) {
    if (const ncclResult_t result = check_memory(call.from, bytes * (scatters ? ranks : 1), call);
        result != ncclSuccess)
      return result;
  }
  if (call.operation != Operation::send) {
    if (const ncclResult_t result = check_memory(call.to, bytes * (gathers ? ranks : 1), call);
        result != ncclSuccess)
      return result;
  }
  Call known = call;
  known.is_registered =
      (!reads || is_registered(*communicator, call.from, bytes * (scatters ? ranks : 1))) &&
      (call.operation == Operation::send ||
       is_registered(*communicator, call.to, bytes * (gathers ? ranks : 1)));
  members.push_back({communicator, stream, known});
  return depth > 0 ? ncclSuccess : end_group();
}

const std::byte* bytes_of(const void* memory) {
  return static_cast<const std::byte*>(memory);
}
std::byte* bytes_of(void* memory) {
  return static_cast<std::byte*>(memory);
}

}  // namespace

std::string describe(const Call& call) {
  constexpr const char* names[] = {"ncclSend",          "ncclRecv",      "ncclAllReduce",
                                   "ncclReduceScatter", "ncclAllGather", "ncclBroadcast"};
  return fmt::format("{} of {} values of type {} (operation {}, peer or root {})",
                     names[static_cast<int>(call.operation)], call.count,
                     static_cast<int>(call.type), static_cast<int>(call.op), call.peer);
}

void submit_pending(Communicator& c) {
  for (const auto& [handle, command] : c.pending) {
    Stream* stream = nullptr;
    if (open_stream(handle, "a group of NCCL", stream) != cudaSuccess) continue;
    if (stream->capture != nullptr) fatal("NCCL's calls in captured streams aren't emulated");
    if (submit(*stream, command) == cudaSuccess)
      c.submitted.emplace_back(stream->queue, stream->last);
  }
  c.pending.clear();
  std::erase_if(c.submitted, [](const auto& at) { return is_done(at.first, at.second); });
}

}  // namespace emulation::nccl

using namespace emulation;
using namespace emulation::nccl;

extern "C" {

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd came without ncclGroupStart");
  return --depth > 0 ? ncclSuccess : end_group();
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return add("ncclSend", communicator, stream,
             {.operation = Operation::send,
              .type = type,
              .peer = peer,
              .count = count,
              .from = bytes_of(from)});
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return add("ncclRecv", communicator, stream,
             {.operation = Operation::receive,
              .type = type,
              .peer = peer,
              .count = count,
              .to = bytes_of(to)});
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream) {
  return add("ncclAllReduce", communicator, stream,
             {.operation = Operation::all_reduce,
              .type = type,
              .op = op,
              .count = count,
              .from = bytes_of(from),
              .to = bytes_of(to)});
}

ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream) {
  return add("ncclReduceScatter", communicator, stream,
             {.operation = Operation::reduce_scatter,
              .type = type,
              .op = op,
              .count = count,
              .from = bytes_of(from),
              .to = bytes_of(to)});
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclComm_t communicator, cudaStream_t stream) {
  return add("ncclAllGather", communicator, stream,
             {.operation = Operation::all_gather,
              .type = type,
              .count = count,
              .from = bytes_of(from),
              .to = bytes_of(to)});
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t communicator, cudaStream_t stream) {
  return add("ncclBroadcast", communicator, stream,
             {.operation = Operation::broadcast,
              .type = type,
              .peer = root,
              .count = count,
              .from = bytes_of(from),
              .to = bytes_of(to)});
}

}  // extern "C"
