#include "comm/messages.hpp"
#include "comm/progress.hpp"
#include "comm/staging.hpp"
#include "comm/transports.hpp"

namespace shardmix::comm {

namespace {

constexpr int tag = 1;

/// The other ranks, each rank beginning with its next neighbour so that no one is asked by all at
/// once.
template <class Visit>
void for_each_peer(int rank, int size, const Visit& visit) {
  for (int distance = 1; distance < size; ++distance) visit((rank + distance) % size);
}

/// Sends and receives that are awaited together.
class Exchange final : public Operation {
 public:
  explicit Exchange(MPI_Comm communicator) : messages_(communicator, tag) {}
  bool advance() override { return messages_.done(); }
  [[nodiscard]] Messages& messages() noexcept { return messages_; }

  device::Buffer staging;  ///< what the messages arrive in, if not in a bucket
  device::Buffer mirror;   ///< of the bucket, where MPI can't reach that

 private:
  Messages messages_;
};

class MpiCollectives final : public Collectives {
 public:
  MpiCollectives(Group& group, device::Device& device)
      : Collectives(group, device),
        communicator_(group.duplicate()),
        staging_(device),
        progress_(group.watch(), group.allows_threads() && group.size() > 1) {}

  ~MpiCollectives() override {
    if (!group().watch().over()) MPI_Comm_free(&communicator_);
  }

  std::string_view name() const noexcept override { return "mpi"; }
  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;

  [[nodiscard]] std::shared_ptr<Exchange> exchange() const {
    return std::make_shared<Exchange>(communicator_);
  }
  [[nodiscard]] Staging& staging() noexcept { return staging_; }
  [[nodiscard]] device::Device& memory() const noexcept { return device(); }

  /// The bucket where MPI reaches it: in `mirror`, if hosts can't address the device's memory.
  [[nodiscard]] SlicedBucket reachable(const SlicedBucket& bucket, device::Buffer& mirror) {
    if (device().is_host()) return bucket;
    mirror = staging_.take(bucket.cuts.back());
    SlicedBucket on_host = bucket;
    on_host.data = mirror.data();
    return on_host;
  }
  [[nodiscard]] Progress& progress() noexcept { return progress_; }
  /// The rank is done with an exchange.
  void leave(Exchange& exchange) {
    if (!progress_.leave(exchange)) return;
    staging_.give(std::move(exchange.staging));
    staging_.give(std::move(exchange.mirror));
  }

 private:
  MPI_Comm communicator_;
  Staging staging_;
  Progress progress_;
};

/// Copies the slices of ranks [begin, end).
void copy(device::Device& device, const SlicedBucket& to, const SlicedBucket& from, int begin,
          int end) {
  const auto bytes =
      from.cuts[static_cast<std::size_t>(end)] - from.cuts[static_cast<std::size_t>(begin)];
  if (bytes > 0) device.copy(to.slice(begin), from.slice(begin), static_cast<std::size_t>(bytes));
}

/// Every rank sends each peer the peer's slice, and receives its own slice from each.
class MpiReduction final : public Reduction {
 public:
  MpiReduction(MpiCollectives& collectives, const SlicedBucket& bucket)
      : collectives_(collectives), dtype_(bucket.dtype), exchange_(collectives.exchange()) {
    const int rank = collectives.rank();
    const int size = collectives.size();
    const std::int64_t own = bucket.slice_bytes(rank);
    exchange_->staging = collectives.staging().take(own * (size - 1));
    arrays_.resize(static_cast<std::size_t>(size));
    arrays_[static_cast<std::size_t>(rank)] = bucket.slice(rank);
    const SlicedBucket from = collectives.reachable(bucket, exchange_->mirror);
    if (from.data != bucket.data) {
      collectives.memory().synchronize();
      copy(collectives.memory(), from, bucket, 0, size);
    }
    Messages& messages = exchange_->messages();
    std::byte* next = exchange_->staging.data();
    for_each_peer(rank, size, [&](int peer) {
      messages.receive(next, own, peer);
      arrays_[static_cast<std::size_t>(peer)] = next;
      next += own;
    });
    for_each_peer(rank, size,
                  [&](int peer) { messages.send(from.slice(peer), from.slice_bytes(peer), peer); });
    collectives.progress().start(exchange_);
  }

  ~MpiReduction() override { collectives_.leave(*exchange_); }

  bool ready() override { return collectives_.progress().poll(*exchange_); }

  Contributions contributions() override {
    collectives_.progress().wait(*exchange_, "the peers' gradients");
    return {.arrays = arrays_, .dtype = dtype_};
  }

 private:
  MpiCollectives& collectives_;
  DType dtype_;
  std::vector<const void*> arrays_;
  std::shared_ptr<Exchange> exchange_;
};

class MpiGather final : public Gather {
 public:
  MpiGather(MpiCollectives& collectives, const SlicedBucket& bucket)
      : collectives_(collectives),
        bucket_(bucket),
        exchange_(collectives.exchange()),
        reachable_(collectives.reachable(bucket, exchange_->mirror)) {
    const int rank = collectives.rank();
    if (is_mirrored()) {
      collectives.memory().synchronize();
      copy(collectives.memory(), reachable_, bucket, rank, rank + 1);
    }
    Messages& messages = exchange_->messages();
    for_each_peer(rank, collectives.size(), [&](int peer) {
      messages.receive(reachable_.slice(peer), bucket.slice_bytes(peer), peer);
    });
    for_each_peer(rank, collectives.size(), [&](int peer) {
      messages.send(reachable_.slice(rank), bucket.slice_bytes(rank), peer);
    });
    collectives.progress().start(exchange_);
  }

  ~MpiGather() override { collectives_.leave(*exchange_); }

  void wait() override {
    collectives_.progress().wait(*exchange_, "the peers' new parameters");
    if (!is_mirrored()) return;
    const int rank = collectives_.rank();
    copy(collectives_.memory(), bucket_, reachable_, 0, rank);
    copy(collectives_.memory(), bucket_, reachable_, rank + 1, collectives_.size());
  }

 private:
  [[nodiscard]] bool is_mirrored() const noexcept { return reachable_.data != bucket_.data; }

  MpiCollectives& collectives_;
  SlicedBucket bucket_;
  std::shared_ptr<Exchange> exchange_;
  SlicedBucket reachable_;
};

std::unique_ptr<Reduction> MpiCollectives::begin_reduce(const SlicedBucket& bucket) {
  (void)count_reduction();
  std::unique_ptr<Reduction> begun;
  group().watch().begin("a reduction",
                        [&] { begun = std::make_unique<MpiReduction>(*this, bucket); });
  return begun;
}

std::unique_ptr<Gather> MpiCollectives::begin_gather(const SlicedBucket& bucket,
                                                     Written /*written*/) {
  std::unique_ptr<Gather> begun;
  group().watch().begin("a gather", [&] { begun = std::make_unique<MpiGather>(*this, bucket); });
  return begun;
}

}  // namespace

std::unique_ptr<Collectives> mpi_collectives(Group& group, device::Device& device) {
  return std::make_unique<MpiCollectives>(group, device);
}

}  // namespace shardmix::comm
