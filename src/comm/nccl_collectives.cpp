#include <numeric>
#include <vector>

#include "comm/nccl_peers.hpp"
#include "comm/staging.hpp"
#include "comm/transports.hpp"

// The same schedule as over MPI: NCCL moves the slices between GPUs, and the device's kernel adds
// them in our order. NCCL has a stream of its own, so that a bucket travels while others are added
// or updated; the two streams wait for each other through events, and the host for neither.

namespace shardmix::comm {
namespace {

std::vector<int> all_ranks(const Group& group) {
  std::vector<int> ranks(static_cast<std::size_t>(group.size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(Group& group, device::Device& device)
      : Collectives(group, device),
        peers_(*this, all_ranks(group)),
        staging_([&](std::int64_t bytes) { return peers_.allocate_local(device, bytes); }) {}

  std::string_view name() const noexcept override { return "nccl"; }
  device::Buffer allocate(std::int64_t bytes) override { return peers_.allocate(device(), bytes); }

  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;

  void add_up(device::SquareSum* sum) override {
    group().watch().enter();
    peers_.all_reduce(work(), sum).hold(work());
  }

  void wait_for_device(bool (device::Device::*is_done)()) override {
    group().watch().wait("the GPU", [&] {
      peers_.require_health();
      return (device().*is_done)();
    });
  }

  [[nodiscard]] const NcclPeers& peers() const noexcept { return peers_; }
  [[nodiscard]] Staging& staging() noexcept { return staging_; }
  [[nodiscard]] cudaStream_t work() const noexcept {
    return static_cast<cudaStream_t>(device().queue());
  }

 private:
  NcclPeers peers_;
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
  ~NcclReduction() override { collectives_.staging().give(std::move(staging_)); }

  bool ready() override { return done_.is_reached(); }

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
    return collectives_.peers().exchange(
        collectives_.work(), [&](const auto& send, const auto& receive) {
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
      : collectives_(collectives), done_(gather(bucket)) {}

  /// Nothing that is queued later, and no one who waits for it, may find it under way.
  ~NcclGather() override { (void)cudaStreamWaitEvent(collectives_.work(), done_.get(), 0); }

  void wait() override { done_.hold(collectives_.work()); }

 private:
  /// NCCL's own gather, which suits itself to the network, is for equal slices.
  [[nodiscard]] CudaEvent gather(const SlicedBucket& bucket) const {
    const int rank = collectives_.rank();
    const int size = collectives_.size();
    const std::int64_t own = bucket.slice_bytes(rank);
    bool are_equal = true;
    for (int r = 0; r < size; ++r) are_equal = are_equal && bucket.slice_bytes(r) == own;
    if (are_equal) return collectives_.peers().all_gather(collectives_.work(), bucket.data, own);
    return collectives_.peers().exchange(
        collectives_.work(), [&](const auto& send, const auto& receive) {
          for (int distance = 1; distance < size; ++distance) {
            const int peer = (rank + distance) % size;
            receive(bucket.slice(peer), bucket.slice_bytes(peer), peer);
            send(bucket.slice(rank), own, peer);
          }
        });
  }

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
