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

 private:
  Messages messages_;
};

class MpiCollectives final : public Collectives {
 public:
  MpiCollectives(Group& group, device::Device& device)
      : Collectives(group, device),
        communicator_(duplicate(group.communicator())),
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
  [[nodiscard]] Progress& progress() noexcept { return progress_; }

 private:
  MPI_Comm communicator_;
  Staging staging_;
  Progress progress_;
};

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
    Messages& messages = exchange_->messages();
    std::byte* next = exchange_->staging.data();
    for_each_peer(rank, size, [&](int peer) {
      messages.receive(next, own, peer);
      arrays_[static_cast<std::size_t>(peer)] = next;
      next += own;
    });
    for_each_peer(rank, size, [&](int peer) {
      messages.send(bucket.slice(peer), bucket.slice_bytes(peer), peer);
    });
    collectives.progress().start(exchange_);
  }

  ~MpiReduction() override {
    if (collectives_.progress().leave(*exchange_))
      collectives_.staging().give(std::move(exchange_->staging));
  }

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
      : collectives_(collectives), exchange_(collectives.exchange()) {
    const int rank = collectives.rank();
    Messages& messages = exchange_->messages();
    for_each_peer(rank, collectives.size(), [&](int peer) {
      messages.receive(bucket.slice(peer), bucket.slice_bytes(peer), peer);
    });
    for_each_peer(rank, collectives.size(), [&](int peer) {
      messages.send(bucket.slice(rank), bucket.slice_bytes(rank), peer);
    });
    collectives.progress().start(exchange_);
  }

  ~MpiGather() override { collectives_.progress().leave(*exchange_); }

  void wait() override { collectives_.progress().wait(*exchange_, "the peers' new parameters"); }

 private:
  MpiCollectives& collectives_;
  std::shared_ptr<Exchange> exchange_;
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
