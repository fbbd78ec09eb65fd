#include "comm/nccl_peers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "comm/agree.hpp"
#include "comm/group.hpp"
#include "shardmix/error.hpp"

namespace shardmix::comm {
namespace {

std::byte* take_memory(const device::Device& device, std::int64_t bytes) {
  void* memory = nullptr;
  if (const ncclResult_t status = ncclMemAlloc(&memory, static_cast<std::size_t>(bytes));
      status != ncclSuccess) {
    throw DeviceError(fmt::format(
        "{} has no {} bytes to give for buckets that NCCL moves (ncclMemAlloc: {}); shard over "
        "more ranks, or keep less (state compact, shorter dtypes)",
        device.description(), bytes, ncclGetErrorString(status)));
  }
  return static_cast<std::byte*>(memory);
}

}  // namespace

NcclPeers::NcclPeers(Collectives& collectives, std::span<const int> ranks)
    : collectives_(collectives),
      size_(static_cast<int>(ranks.size())),
      place_(static_cast<int>(std::ranges::find(ranks, collectives.rank()) - ranks.begin())) {
  ncclUniqueId id{};
  agreed(collectives, [&] {
    if (place_ == 0) require(ncclGetUniqueId(&id), "ncclGetUniqueId");
  });
  const std::vector<std::string> ids = collectives.all_gather({id.internal, sizeof id.internal});
  ids[static_cast<std::size_t>(ranks.front())].copy(id.internal, sizeof id.internal);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;  // calls return at once, so that a missing rank meets the deadline and not
                        // a wait for ever
  agreed(collectives, [&] {  // for who takes another transport then
    require(ncclCommInitRankConfig(&communicator_, size_, id, place_, &config),
            "ncclCommInitRankConfig");
    settle("ncclCommInitRankConfig");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  });
}

NcclPeers::~NcclPeers() {
  // After an error its stream may wait for a process that is gone, and NCCL for its stream.
  if (device::keeps_memory()) return;
  if (communicator_ != nullptr)
    ncclCommAbort(communicator_);  // Destroy may wait for ranks that are gone
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

// NCCL wants all memory of an exchange to be known to it, or none.

device::Buffer NcclPeers::allocate(device::Device& device, std::int64_t bytes) {
  if (bytes == 0) return {};
  std::byte* memory = nullptr;
  agreed(collectives_, [&] {
    memory = take_memory(device, bytes);
    device.clear(memory, static_cast<std::size_t>(bytes));
  });
  void* window = nullptr;
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
  ncclWindow_t registered = nullptr;
  require(ncclCommWindowRegister(communicator_, memory, static_cast<std::size_t>(bytes),
                                 &registered, NCCL_WIN_COLL_SYMMETRIC),
          "ncclCommWindowRegister");
  settle("ncclCommWindowRegister");
  window = registered;
#endif
  return known(memory, bytes, window);
}

device::Buffer NcclPeers::allocate_local(const device::Device& device, std::int64_t bytes) const {
  return bytes == 0 ? device::Buffer() : known(take_memory(device, bytes), bytes, nullptr);
}

device::Buffer NcclPeers::known(std::byte* memory, std::int64_t bytes, void* window) const {
  void* handle = nullptr;
  if (window == nullptr) {  // as it is on machines where NCCL has none
    require(ncclCommRegister(communicator_, memory, static_cast<std::size_t>(bytes), &handle),
            "ncclCommRegister");
  }
  return {memory, bytes, [this, memory, window, handle] {
            try {
              if (std::uncaught_exceptions() > 0) throw CommError("an error ends this rank");
              // Nothing may be under way in it, on any stream: ncclMemFree doesn't wait as cudaFree
              // does.
              check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
              if (handle != nullptr) ncclCommDeregister(communicator_, handle);
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
              if (window != nullptr)
                ncclCommWindowDeregister(communicator_, static_cast<ncclWindow_t>(window));
              settle("ncclCommWindowDeregister");
#endif
            } catch (const std::exception&) {  // what is queued may reach it, or never end
              device::keep_memory();
              return;
            }
            ncclMemFree(memory);
          }};
}

CudaEvent NcclPeers::all_gather(cudaStream_t queue, std::byte* data,
                                std::int64_t part_bytes) const {
  return queue_behind(queue, "ncclAllGather", [&] {
    return ncclAllGather(data + place_ * part_bytes, data, static_cast<std::size_t>(part_bytes),
                         ncclUint8, communicator_, stream_);
  });
}

CudaEvent NcclPeers::all_reduce(cudaStream_t queue, device::SquareSum* sum) const {
  return queue_behind(queue, "ncclAllReduce", [&] {
    return ncclAllReduce(sum, sum, device::square_sum_values, ncclInt64, ncclSum, communicator_,
                         stream_);
  });
}

void NcclPeers::require(ncclResult_t status, const char* call) const {
  if (status != ncclSuccess && status != ncclInProgress) {
    throw CommError(fmt::format("{} failed on rank {}: {}", call, collectives_.rank(),
                                ncclGetErrorString(status)));
  }
}

void NcclPeers::settle(const char* call) const {
  collectives_.group().watch().wait(call, [&] { return state(call) != ncclInProgress; });
}

ncclResult_t NcclPeers::state(const char* what) const {
  ncclResult_t result = ncclSuccess;
  require(ncclCommGetAsyncError(communicator_, &result), "ncclCommGetAsyncError");
  require(result, what);
  return result;
}

}  // namespace shardmix::comm
