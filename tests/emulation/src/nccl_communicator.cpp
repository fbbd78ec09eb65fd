// Communicators: ranks meet in a file of the process that made the identity.

#include "nccl_communicator.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>

#include "arena.hpp"
#include "process.hpp"
#include "shared_files.hpp"

namespace emulation::nccl {
namespace {

struct Identity {
  std::uint32_t magic;
  std::int32_t process;
  std::int32_t descriptor;
};
constexpr std::uint32_t identity_magic = 0x4E43434C;

std::mutex mutex;
std::set<Communicator*>& live() {
  static auto& all = *new std::set<Communicator*>;
  return all;
}

/// How many polls a call that doesn't block stays in progress: 0 to 3.
int draw_polls(Communicator& communicator) {
  const std::uint64_t x = (segment().seed + ++communicator.polls) * 0x9E3779B97F4A7C15u;
  return static_cast<int>(x >> 62);
}

Rank& own_of(Communicator& c) {
  return c.shared->ranks[c.rank];
}

/// Two ranks on one GPU, where that is refused.
bool has_duplicate(Communicator& c) {
  if (setting("EMULATION_NCCL_DUPLICATE", 1) != 0) return false;
  for (int a = 0; a < c.size; ++a) {
    for (int b = 0; b < a; ++b) {
      if (c.shared->ranks[a].gpu != c.shared->ranks[b].gpu) continue;
      c.last_error =
          fmt::format("Duplicate GPU detected : rank {} and rank {} both on CUDA device {:x}", b, a,
                      0x1000 * (c.shared->ranks[a].gpu + 1));
      return true;
    }
  }
  return false;
}

ncclResult_t meet(Communicator& c) {
  if (c.shared->joined < c.size) return ncclInProgress;
  return has_duplicate(c) ? ncclInvalidUsage : ncclSuccess;
}

bool all_done(const Communicator& c) {
  return std::ranges::all_of(c.submitted,
                             [](const auto& at) { return is_done(at.first, at.second); });
}

/// What a call that doesn't block has come to.
ncclResult_t advance(Communicator& c) {
  if (own_of(c).has_lost_peer) return c.state = ncclRemoteError;
  if (c.state != ncclInProgress) return c.state;
  const ncclResult_t met = meet(c);
  if (met != ncclSuccess) return c.state = met;
  if (c.polls_left-- > 0) return ncclInProgress;
  if (!c.windows.empty() && !open_windows(c)) return ncclInProgress;
  submit_pending(c);
  if (c.is_finalized && !all_done(c)) return ncclInProgress;
  return c.state = ncclSuccess;
}

void end(Communicator& c) {
  for (const auto& [queue, count] : c.submitted) wait_for(queue, count);
  unmap_for_both(c.shared, sizeof(Shared));
  const std::lock_guard lock(mutex);
  live().erase(&c);
  delete &c;
}

}  // namespace

ncclResult_t open(ncclComm_t handle, const char* call) {
  if (enter(call) != cudaSuccess) return ncclUnhandledCudaError;
  const std::lock_guard lock(mutex);
  if (live().contains(handle)) return ncclSuccess;
  return refuse(ncclInvalidArgument,
                "{} was given the communicator {}, which was never made or is destroyed", call,
                static_cast<void*>(handle));
}

ncclResult_t open_settled(ncclComm_t handle, const char* call) {
  if (const ncclResult_t result = open(handle, call); result != ncclSuccess) return result;
  if (handle->is_finalized)
    return refuse(ncclInvalidUsage, "{} was called after ncclCommFinalize", call);
  if (handle->state != ncclInProgress) return handle->state;
  return refuse(ncclInvalidUsage,
                "{} was called on rank {} while the call before it is in progress; "
                "ncclCommGetAsyncError says when it is over",
                call, handle->rank);
}

ncclResult_t begin_call(Communicator& c) {
  if (c.is_blocking) {
    submit_pending(c);
    return ncclSuccess;
  }
  c.state = ncclInProgress;
  c.polls_left = draw_polls(c);
  return ncclInProgress;
}

std::vector<const Communicator*> all_communicators() {
  const std::lock_guard lock(mutex);
  return {live().begin(), live().end()};
}

int communicators_left() {
  const std::lock_guard lock(mutex);
  return static_cast<int>(live().size());
}

}  // namespace emulation::nccl

using namespace emulation;
using namespace emulation::nccl;

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (enter("ncclGetUniqueId") != cudaSuccess) return ncclUnhandledCudaError;
  const int file = memfd_create("emulated-nccl", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return ncclSystemError;
  const Identity identity{identity_magic, segment().host, file};
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, &identity, sizeof identity);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (enter("ncclCommInitRankConfig") != cudaSuccess) return ncclUnhandledCudaError;
  *communicator = nullptr;
  Identity identity;
  std::memcpy(&identity, id.internal, sizeof identity);
  if (identity.magic != identity_magic || ranks < 1 || ranks > most_ranks || rank < 0 ||
      rank >= ranks) {
    return refuse(ncclInvalidArgument,
                  "ncclCommInitRankConfig: rank {} of {} (of {} at most), or no identity of "
                  "ncclGetUniqueId",
                  rank, ranks, most_ranks);
  }
  auto* shared = static_cast<Shared*>(
      map_for_both(file_path(identity.process, identity.descriptor), sizeof(Shared)));
  if (shared == nullptr) return ncclSystemError;
  int size = 0;
  if (!shared->size.compare_exchange_strong(size, ranks) && size != ranks) {
    return refuse(ncclInvalidUsage,
                  "ncclCommInitRankConfig: rank {} says there are {} ranks, another said {}", rank,
                  ranks, size);
  }
  Rank& own = shared->ranks[rank];
  int nobody = 0;
  if (!own.host.compare_exchange_strong(nobody, segment().host))
    return refuse(ncclInvalidUsage, "ncclCommInitRankConfig: there are two ranks {}", rank);
  own.process = segment().device.load();
  own.gpu = current_device();
  auto* made =
      new Communicator{.shared = shared, .rank = rank, .size = ranks, .device = current_device()};
  made->is_blocking =
      config == nullptr || config->blocking == NCCL_CONFIG_UNDEF_INT || config->blocking != 0;
  {
    const std::lock_guard lock(mutex);
    live().insert(made);
  }
  *communicator = made;
  shared->joined.fetch_add(1);
  ring(shared->bell);
  if (!made->is_blocking) return begin_call(*made);
  wait_until(shared->bell, [&] { return shared->joined == ranks; });
  return made->state = meet(*made);
}

ncclResult_t ncclCommInitRank(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(communicator, ranks, id, rank, nullptr);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* error) {
  if (const ncclResult_t result = open(communicator, "ncclCommGetAsyncError");
      result != ncclSuccess)
    return result;
  *error = advance(*communicator);
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t communicator) {
  if (const ncclResult_t result = open_settled(communicator, "ncclCommFinalize");
      result != ncclSuccess)
    return result;
  communicator->is_finalized = true;
  if (!communicator->is_blocking) return begin_call(*communicator);
  for (const auto& [queue, count] : communicator->submitted) wait_for(queue, count);
  return ncclSuccess;
}

/// Waits for what was begun; abort doesn't.
ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  if (const ncclResult_t result = open(communicator, "ncclCommDestroy"); result != ncclSuccess)
    return result;
  submit_pending(*communicator);
  end(*communicator);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  if (const ncclResult_t result = open(communicator, "ncclCommAbort"); result != ncclSuccess)
    return result;
  communicator->shared->ranks[communicator->rank].is_aborted = true;
  ring(communicator->shared->bell);
  end(*communicator);
  return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t communicator, int* count) {
  *count = communicator->size;
  return open(communicator, "ncclCommCount");
}
ncclResult_t ncclCommUserRank(ncclComm_t communicator, int* rank) {
  *rank = communicator->rank;
  return open(communicator, "ncclCommUserRank");
}
ncclResult_t ncclCommCuDevice(ncclComm_t communicator, int* device) {
  *device = communicator->device;
  return open(communicator, "ncclCommCuDevice");
}

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  constexpr const char* texts[] = {
      "no error",
      "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
      "unhandled system error (run with NCCL_DEBUG=INFO for details)",
      "internal error - please report this issue to the NCCL developers",
      "invalid argument (run with NCCL_DEBUG=WARN for details)",
      "invalid usage (run with NCCL_DEBUG=WARN for details)",
      "remote process exited or there was a network error",
      "NCCL operation in progress"};
  return result >= 0 && result < ncclNumResults ? texts[result] : "unknown result code";
}

const char* ncclGetLastError(ncclComm_t communicator) {
  return communicator == nullptr ? "" : communicator->last_error.c_str();
}

}  // extern "C"
