#include <cuda_runtime.h>
#include <fmt/format.h>
#include <nccl.h>

#include <chrono>
#include <thread>
#include <utility>

#include "comm/mpi_collectives.hpp"
#include "shardmix/error.hpp"

// The same schedule as over MPI: NCCL moves the slices between GPUs, and the device's kernel adds
// them in our order.

namespace shardmix::comm {
namespace {

constexpr std::chrono::minutes deadline{10};

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw CommError(fmt::format("{} failed: {}", call, cudaGetErrorString(status)));
}

/// Scalars go over MPI, which is there anyway; buckets go over NCCL.
class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(std::unique_ptr<Collectives> scalars, device::Device& device)
      : scalars_(std::move(scalars)), device_(device) {
    ncclUniqueId id{};
    if (rank() == 0) require(ncclGetUniqueId(&id), "ncclGetUniqueId");
    scalars_->broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
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

  int rank() const noexcept override { return scalars_->rank(); }
  int size() const noexcept override { return scalars_->size(); }
  std::string_view name() const noexcept override { return "nccl"; }

  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket) override;

  void all_reduce_sum(std::span<double> values) override { scalars_->all_reduce_sum(values); }
  void all_reduce_sum(std::span<std::int64_t> values) override { scalars_->all_reduce_sum(values); }
  void all_reduce_min(std::span<std::int64_t> values) override { scalars_->all_reduce_min(values); }
  void all_reduce_max(std::span<std::int64_t> values) override { scalars_->all_reduce_max(values); }
  void broadcast(std::span<std::byte> bytes, int root) override {
    scalars_->broadcast(bytes, root);
  }
  std::vector<std::string> all_gather(std::string_view text) override {
    return scalars_->all_gather(text);
  }
  void barrier() override { scalars_->barrier(); }

  [[nodiscard]] device::Device& device() const noexcept { return device_; }

  /// Sends and receives as one group: calls `exchange(send, receive)`, each of (address, bytes,
  /// peer).
  template <class Exchange>
  void group(const Exchange& exchange) {
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

  /// Waits until all groups so far are done, or the deadline has passed.
  void wait() {
    const auto end = std::chrono::steady_clock::now() + deadline;
    for (;;) {
      const cudaError_t status = cudaStreamQuery(stream_);
      if (status == cudaSuccess) return;
      if (status != cudaErrorNotReady) check(status, "cudaStreamQuery");
      poll(end, "an exchange between the GPUs");
    }
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
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (poll(end, call) == ncclInProgress) {
    }
  }

  ncclResult_t poll(std::chrono::steady_clock::time_point end, const char* what) const {
    ncclResult_t state = ncclSuccess;
    require(ncclCommGetAsyncError(communicator_, &state), "ncclCommGetAsyncError");
    require(state, what);
    if (std::chrono::steady_clock::now() > end) {
      throw CommError(
          fmt::format("rank {} waited {} minutes for {}; another rank is missing or stuck", rank(),
                      deadline.count(), what));
    }
    std::this_thread::yield();
    return state;
  }

  std::unique_ptr<Collectives> scalars_;
  device::Device& device_;
  ncclComm_t communicator_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

class NcclReduction final : public Reduction {
 public:
  NcclReduction(NcclCollectives& collectives, const SlicedBucket& bucket)
      : collectives_(collectives) {
    const int rank = collectives.rank();
    const int size = collectives.size();
    const auto cut = [&](int r) { return bucket.cuts[static_cast<std::size_t>(r)]; };
    const std::int64_t own = cut(rank + 1) - cut(rank);
    staging_ = device::Buffer(collectives.device(), own * (size - 1));
    sources_.resize(static_cast<std::size_t>(size));
    sources_[static_cast<std::size_t>(rank)] = bucket.data + cut(rank);
    collectives.group([&](const auto& send, const auto& receive) {
      std::byte* next = staging_.data();
      for (int distance = 1; distance < size; ++distance) {
        const int peer = (rank + distance) % size;
        receive(next, own, peer);
        send(bucket.data + cut(peer), cut(peer + 1) - cut(peer), peer);
        sources_[static_cast<std::size_t>(peer)] = next;
        next += own;
      }
    });
  }

  std::span<const void* const> sources() override {
    collectives_.wait();
    return sources_;
  }

 private:
  NcclCollectives& collectives_;
  device::Buffer staging_;
  std::vector<const void*> sources_;
};

class NcclGather final : public Gather {
 public:
  NcclGather(NcclCollectives& collectives, const SlicedBucket& bucket) : collectives_(collectives) {
    const int rank = collectives.rank();
    const auto cut = [&](int r) { return bucket.cuts[static_cast<std::size_t>(r)]; };
    collectives.group([&](const auto& send, const auto& receive) {
      for (int distance = 1; distance < collectives.size(); ++distance) {
        const int peer = (rank + distance) % collectives.size();
        receive(bucket.data + cut(peer), cut(peer + 1) - cut(peer), peer);
        send(bucket.data + cut(rank), cut(rank + 1) - cut(rank), peer);
      }
    });
  }

  void wait() override { collectives_.wait(); }

 private:
  NcclCollectives& collectives_;
};

std::unique_ptr<Reduction> NcclCollectives::begin_reduce(const SlicedBucket& bucket) {
  return std::make_unique<NcclReduction>(*this, bucket);
}

std::unique_ptr<Gather> NcclCollectives::begin_gather(const SlicedBucket& bucket) {
  return std::make_unique<NcclGather>(*this, bucket);
}

}  // namespace

bool has_nccl() noexcept {
  return true;
}

std::unique_ptr<Collectives> nccl_collectives(std::unique_ptr<Collectives> scalars,
                                              device::Device& device) {
  return std::make_unique<NcclCollectives>(std::move(scalars), device);
}

}  // namespace shardmix::comm
