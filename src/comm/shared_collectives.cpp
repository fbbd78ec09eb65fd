#include "comm/node_collectives.hpp"
#include "comm/progress.hpp"
#include "comm/transports.hpp"

namespace shardmix::comm {
namespace {

class SharedCollectives final : public NodeCollectives {
 public:
  SharedCollectives(Group& group, device::Device& device)
      : NodeCollectives(group, device),
        progress_(group.watch(), group.allows_threads() && group.size() > 1 && device.is_host()) {}

  std::string_view name() const noexcept override { return "shared"; }
  bool reads_in_place() const noexcept override { return true; }
  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;
  void add_up(device::SquareSum* sum) override;

 private:
  /// Of no operation: it answers other ranks while this one computes. On GPUs QueueWatch does.
  Progress progress_;
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
    collectives.memory().reach(Mark::posted, number);
  }

  ~SharedReduction() override { collectives_.memory().advance(Mark::finished); }

  bool ready() override { return collectives_.memory().all_reached(Mark::posted, number_); }

  Contributions contributions() override {
    collectives_.memory().await(Mark::posted, number_, "the peers' gradients");
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
    collectives.memory().reach(Mark::written, number);
  }

  void wait() override {
    collectives_.memory().await(Mark::written, number_, "the peers' new parameters");
  }

 private:
  SharedCollectives& collectives_;
  std::int64_t number_;
};

std::unique_ptr<Reduction> SharedCollectives::begin_reduce(const SlicedBucket& bucket) {
  group().watch().enter();
  return std::make_unique<SharedReduction>(*this, bucket, count_reduction());
}

std::unique_ptr<Gather> SharedCollectives::begin_gather(const SlicedBucket& bucket,
                                                        Written written) {
  group().watch().enter();
  return std::make_unique<SharedGather>(*this, publish(bucket, written));
}

void SharedCollectives::add_up(device::SquareSum* sum) {
  if (device().is_host()) {
    NodeCollectives::add_up(sum);
    return;
  }
  group().watch().enter();
  add_up_on_node(sum);
}

}  // namespace

std::unique_ptr<Collectives> shared_collectives(Group& group, device::Device& device) {
  return std::make_unique<SharedCollectives>(group, device);
}

}  // namespace shardmix::comm
