#include <cstring>

#include "comm/node_memory.hpp"
#include "comm/progress.hpp"
#include "comm/transports.hpp"

namespace shardmix::comm {
namespace {

class SharedCollectives final : public Collectives {
 public:
  SharedCollectives(Group& group, device::Device& device)
      : Collectives(group, device),
        memory_(*this),
        progress_(group.watch(), group.allows_threads() && group.size() > 1) {}

  std::string_view name() const noexcept override { return "shared"; }
  device::Buffer allocate(std::int64_t bytes) override { return memory_.allocate(bytes); }
  bool reads_in_place() const noexcept override { return true; }
  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  bool is_read(std::int64_t reductions) override {
    return memory_.all_reached(&NodeCounters::finished, reductions);
  }
  void wait_until_read(std::int64_t reductions) override;
  void discard(std::byte* memory, std::int64_t bytes) override {
    NodeMemory::discard(memory, bytes);
  }
  std::vector<std::byte*> copies(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;

  [[nodiscard]] NodeMemory& memory() noexcept { return memory_; }

 private:
  NodeMemory memory_;
  std::int64_t gathers_ = 0;
  Progress progress_;  ///< of no operation: it answers other ranks while this one computes
};

class SharedReduction final : public Reduction {
 public:
  SharedReduction(SharedCollectives& collectives, const SlicedBucket& bucket, std::int64_t number)
      : collectives_(collectives), dtype_(bucket.dtype), number_(number) {
    const int rank = collectives.rank();
    for (const std::byte* place :
         collectives.memory().views(bucket.slice(rank), bucket.slice_bytes(rank))) {
      arrays_.push_back(place);
    }
    collectives.memory().own().posted.store(number, std::memory_order_release);
  }

  ~SharedReduction() override {
    collectives_.memory().own().finished.fetch_add(1, std::memory_order_release);
  }

  bool ready() override {
    return collectives_.memory().all_reached(&NodeCounters::posted, number_);
  }

  Contributions contributions() override {
    collectives_.group().watch().wait("the peers' gradients", [&] { return ready(); });
    return {.arrays = arrays_, .dtype = dtype_};
  }

 private:
  SharedCollectives& collectives_;
  DType dtype_;
  std::int64_t number_;
  std::vector<const void*> arrays_;
};

class SharedGather final : public Gather {
 public:
  SharedGather(SharedCollectives& collectives, std::int64_t number)
      : collectives_(collectives), number_(number) {
    collectives.memory().own().written.store(number, std::memory_order_release);
  }

  void wait() override {
    collectives_.group().watch().wait("the peers' new parameters", [&] {
      return collectives_.memory().all_reached(&NodeCounters::written, number_);
    });
  }

 private:
  SharedCollectives& collectives_;
  std::int64_t number_;
};

std::unique_ptr<Reduction> SharedCollectives::begin_reduce(const SlicedBucket& bucket) {
  group().watch().enter();
  return std::make_unique<SharedReduction>(*this, bucket, count_reduction());
}

void SharedCollectives::wait_until_read(std::int64_t reductions) {
  group().watch().wait("the peers to read this rank's gradients",
                       [&] { return is_read(reductions); });
}

std::vector<std::byte*> SharedCollectives::copies(const SlicedBucket& bucket) {
  std::vector<std::byte*> places = memory_.views(bucket.slice(rank()), bucket.slice_bytes(rank()));
  places.erase(places.begin() + rank());
  return places;
}

std::unique_ptr<Gather> SharedCollectives::begin_gather(const SlicedBucket& bucket,
                                                        Written written) {
  group().watch().enter();
  if (written == Written::here) {
    for (std::byte* copy : copies(bucket)) {
      std::memcpy(copy, bucket.slice(rank()), static_cast<std::size_t>(bucket.slice_bytes(rank())));
    }
  }
  return std::make_unique<SharedGather>(*this, ++gathers_);
}

}  // namespace

std::unique_ptr<Collectives> shared_collectives(Group& group, device::Device& device) {
  return std::make_unique<SharedCollectives>(group, device);
}

}  // namespace shardmix::comm
