#include <fmt/format.h>
#include <nccl.h>

#include "comm/cuda_calls.hpp"
#include "comm/staging.hpp"
#include "comm/transports.hpp"
#include "shardmix/error.hpp"

// The same schedule as over MPI: NCCL moves the slices between GPUs, and the device's kernel adds
// them in our order. NCCL has a stream of its own, so that a bucket travels while others are added
// or updated; the two streams wait for each other through events, and the host for neither.

namespace shardmix::comm {
namespace {

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(Group& group, device::Device& device)
      : Collectives(group, device),
        work_(static_cast<cudaStream_t>(device.queue())),
        staging_(device, device::MemoryKind::device) {
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
    if (communicator_ != nullptr)
      ncclCommAbort(communicator_);  // Destroy may wait for ranks that are gone
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  std::string_view name() const noexcept override { return "nccl"; }

  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;

  void add_up(device::SquareSum* sum) override {
    group().watch().enter();
    const CudaEvent done = exchange([&] {
      require(ncclAllReduce(sum, sum, device::square_sum_values, ncclInt64, ncclSum, communicator_,
                            stream_),
              "ncclAllReduce");
      settle("ncclAllReduce");
    });
    done.hold(work_);
  }

  void wait_for_device(bool (device::Device::*is_done)()) override {
    group().watch().wait("the GPU", [&] {
      (void)state("an exchange between the GPUs");
      return (device().*is_done)();
    });
  }

  [[nodiscard]] Staging& staging() noexcept { return staging_; }
  [[nodiscard]] cudaStream_t work() const noexcept { return work_; }

  /// Sends and receives as one group: calls `exchange(send, receive)`, each of (address, bytes,
  /// peer). Behind what the device has queued; the event tells when it is done.
  template <class Exchange>
  [[nodiscard]] CudaEvent group_calls(const Exchange& calls) {
    return exchange([&] {
      require(ncclGroupStart(), "ncclGroupStart");
      calls(
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
    });
  }

 private:
  template <class Begin>
  [[nodiscard]] CudaEvent exchange(const Begin& begin) {
    CudaEvent event;
    event.record(work_);
    event.hold(stream_);
    begin();
    event.record(stream_);
    return event;
  }

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

  cudaStream_t work_;              ///< the device's
  cudaStream_t stream_ = nullptr;  ///< NCCL's
  ncclComm_t communicator_ = nullptr;
  Staging staging_;
};

class NcclReduction final : public Reduction {
 public:
  NcclReduction(NcclCollectives& collectives, const SlicedBucket& bucket)
      : collectives_(collectives),
        dtype_(bucket.dtype),
        arrays_(static_cast<std::size_t>(collectives.size())),
        staging_(collectives.staging().take(bucket.slice_bytes(collectives.rank()) *
                                            (collectives.size() - 1))),
        done_(exchange(bucket)) {}

  /// Who reads the arrays has been queued: later arrivals wait for that.
  ~NcclReduction() override {
    if (staging_.bytes() > 0) collectives_.staging().give(std::move(staging_));
  }

  bool ready() override { return true; }

  Contributions contributions() override {
    done_.hold(collectives_.work());
    return {.arrays = arrays_, .dtype = dtype_};
  }

 private:
  [[nodiscard]] CudaEvent exchange(const SlicedBucket& bucket) {
    const int rank = collectives_.rank();
    const int size = collectives_.size();
    const std::int64_t own = bucket.slice_bytes(rank);
    arrays_[static_cast<std::size_t>(rank)] = bucket.slice(rank);
    return collectives_.group_calls([&](const auto& send, const auto& receive) {
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

  NcclCollectives& collectives_;
  DType dtype_;
  std::vector<const void*> arrays_;
  device::Buffer staging_;
  CudaEvent done_;
};

class NcclGather final : public Gather {
 public:
  NcclGather(NcclCollectives& collectives, const SlicedBucket& bucket)
      : collectives_(collectives),
        done_(collectives.group_calls([&](const auto& send, const auto& receive) {
          const int rank = collectives.rank();
          for (int distance = 1; distance < collectives.size(); ++distance) {
            const int peer = (rank + distance) % collectives.size();
            receive(bucket.slice(peer), bucket.slice_bytes(peer), peer);
            send(bucket.slice(rank), bucket.slice_bytes(rank), peer);
          }
        })) {}

  /// Nothing that is queued later, and no one who waits for it, may find it under way.
  ~NcclGather() override { (void)cudaStreamWaitEvent(collectives_.work(), done_.get(), 0); }

  void wait() override { done_.hold(collectives_.work()); }

 private:
  NcclCollectives& collectives_;
  CudaEvent done_;
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
