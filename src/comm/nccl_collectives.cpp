#include <cuda_runtime.h>
#include <fmt/format.h>
#include <nccl.h>

#include "comm/transports.hpp"
#include "shardmix/error.hpp"

// The same schedule as over MPI: NCCL moves the slices between GPUs, and the device's kernel adds
// them in our order.

namespace shardmix::comm {
namespace {

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw CommError(fmt::format("{} failed: {}", call, cudaGetErrorString(status)));
}

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(Group& group, device::Device& device) : Collectives(group, device) {
    ncclUniqueId id{};
    if (rank() == 0) require(ncclGetUniqueId(&id), "ncclGetUniqueId");
    broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // calls return at once, so that a missing rank meets the deadline and not
                          // a wait for ever
    require(ncclCommInitRankConfig(&communicator_, size(), id, rank(), &config),
            "ncclCommInitRankConfig");
    settle("ncclCommInitRankConfig");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }

  ~NcclCollectives() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    if (communicator_ != nullptr)
      ncclCommAbort(communicator_);  // Destroy may wait for ranks that are gone
  }

  std::string_view name() const noexcept override { return "nccl"; }

  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;

  [[nodiscard]] device::Buffer staging(std::int64_t bytes) const { return {device(), bytes}; }

  /// Sends and receives as one group: calls `exchange(send, receive)`, each of (address, bytes,
  /// peer).
  template <class Exchange>
  void group_calls(const Exchange& exchange) {
    require(ncclGroupStart(), "ncclGroupStart");
    exchange(
        [&](const std::byte* data, std::int64_t bytes, int to) {
          require(ncclSend(data, static_cast<std::size_t>(bytes), ncclUint8, to, communicator_,
                           stream_),
                  "ncclSend");
        },
        [&](std::byte* data, std::int64_t bytes, int from) {
          require(ncclRecv(data, static_cast<std::size_t>(bytes), ncclUint8, from, communicator_,
                           stream_),
                  "ncclRecv");
        });
    require(ncclGroupEnd(), "ncclGroupEnd");
    settle("ncclGroupEnd");
  }

  /// Whether all groups so far are done.
  [[nodiscard]] bool is_idle() const {
    const cudaError_t status = cudaStreamQuery(stream_);
    if (status != cudaErrorNotReady) check(status, "cudaStreamQuery");
    (void)state("an exchange between the GPUs");
    return status == cudaSuccess;
  }

  void wait() {
    group().watch().wait("an exchange between the GPUs", [&] { return is_idle(); });
  }

 private:
  void require(ncclResult_t status, const char* call) const {
    if (status != ncclSuccess && status != ncclInProgress) {
      throw CommError(
          fmt::format("{} failed on rank {}: {}", call, rank(), ncclGetErrorString(status)));
    }
  }

  /// Waits until a non-blocking call has been carried out.
  void settle(const char* call) const {
    group().watch().wait(call, [&] { return state(call) != ncclInProgress; });
  }

  ncclResult_t state(const char* what) const {
    ncclResult_t result = ncclSuccess;
    require(ncclCommGetAsyncError(communicator_, &result), "ncclCommGetAsyncError");
    require(result, what);
    return result;
  }

  ncclComm_t communicator_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

class NcclReduction final : public Reduction {
 public:
  NcclReduction(NcclCollectives& collectives, const SlicedBucket& bucket)
      : collectives_(collectives), dtype_(bucket.dtype) {
    const int rank = collectives.rank();
    const int size = collectives.size();
    const std::int64_t own = bucket.slice_bytes(rank);
    staging_ = collectives.staging(own * (size - 1));
    arrays_.resize(static_cast<std::size_t>(size));
    arrays_[static_cast<std::size_t>(rank)] = bucket.slice(rank);
    collectives.group_calls([&](const auto& send, const auto& receive) {
      std::byte* next = staging_.data();
      for (int distance = 1; distance < size; ++distance) {
        const int peer = (rank + distance) % size;
        receive(next, own, peer);
        send(bucket.slice(peer), bucket.slice_bytes(peer), peer);
        arrays_[static_cast<std::size_t>(peer)] = next;
        next += own;
      }
    });
  }

  bool ready() override { return collectives_.is_idle(); }

  Contributions contributions() override {
    collectives_.wait();
    return {.arrays = arrays_, .dtype = dtype_};
  }

 private:
  NcclCollectives& collectives_;
  DType dtype_;
  device::Buffer staging_;
  std::vector<const void*> arrays_;
};

class NcclGather final : public Gather {
 public:
  NcclGather(NcclCollectives& collectives, const SlicedBucket& bucket) : collectives_(collectives) {
    const int rank = collectives.rank();
    collectives.group_calls([&](const auto& send, const auto& receive) {
      for (int distance = 1; distance < collectives.size(); ++distance) {
        const int peer = (rank + distance) % collectives.size();
        receive(bucket.slice(peer), bucket.slice_bytes(peer), peer);
        send(bucket.slice(rank), bucket.slice_bytes(rank), peer);
      }
    });
  }

  void wait() override { collectives_.wait(); }

 private:
  NcclCollectives& collectives_;
};

std::unique_ptr<Reduction> NcclCollectives::begin_reduce(const SlicedBucket& bucket) {
  group().watch().enter();
  (void)count_reduction();
  return std::make_unique<NcclReduction>(*this, bucket);
}

std::unique_ptr<Gather> NcclCollectives::begin_gather(const SlicedBucket& bucket,
                                                      Written /*written*/) {
  group().watch().enter();
  return std::make_unique<NcclGather>(*this, bucket);
}

}  // namespace

bool has_nccl() noexcept {
  return true;
}

std::unique_ptr<Collectives> nccl_collectives(Group& group, device::Device& device) {
  return std::make_unique<NcclCollectives>(group, device);
}

}  // namespace shardmix::comm
