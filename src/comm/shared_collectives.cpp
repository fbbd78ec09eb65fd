#include "comm/agree.hpp"
#include "comm/node_collectives.hpp"
#include "comm/progress.hpp"
#include "comm/transports.hpp"

namespace shardmix::comm {
namespace {

class SharedCollectives final : public NodeCollectives {
 public:
  SharedCollectives(Group& group, device::Device& device)
      : NodeCollectives(group, device),
        progress_(group.watch(), group.allows_threads() && group.size() > 1) {
    if (device.is_host()) return;
    parts_ = memory().allocate(2 * std::int64_t{sizeof(device::SquareSum)});
    agreed(*this, [&] {
      all_parts_ = device::Buffer(device, group.size() * std::int64_t{sizeof(device::SquareSum)});
    });
  }

  std::string_view name() const noexcept override { return "shared"; }
  bool reads_in_place() const noexcept override { return true; }
  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;
  void add_up(device::SquareSum* sum) override;

 private:
  // On GPUs: this rank's part of a sum (two of them, in turn), and all ranks'.
  device::Buffer parts_;
  device::Buffer all_parts_;
  std::int64_t sums_ = 0;
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
    collectives.memory().reach(Mark::posted, number);
  }

  ~SharedReduction() override { collectives_.memory().advance(Mark::finished, 1); }

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

/// Every rank puts its part where the others read it. Nobody still reads what was there two sums
/// ago: to begin the last one all had read it.
void SharedCollectives::add_up(device::SquareSum* sum) {
  if (device().is_host()) {
    NodeCollectives::add_up(sum);
    return;
  }
  group().watch().enter();
  constexpr std::size_t bytes = sizeof *sum;
  auto* part = parts_.as<device::SquareSum>() + ++sums_ % 2;
  device().queue_copy(part, sum, bytes);
  memory().reach(Mark::summed, sums_);
  memory().await(Mark::summed, sums_, "the peers' part of a sum");
  auto* next = all_parts_.as<device::SquareSum>();
  for (const std::byte* place : memory().views(reinterpret_cast<std::byte*>(part), bytes))
    device().queue_copy(next++, place, bytes);
  device().add_sums(all_parts_.as<device::SquareSum>(), size(), sum);
}

}  // namespace

std::unique_ptr<Collectives> shared_collectives(Group& group, device::Device& device) {
  return std::make_unique<SharedCollectives>(group, device);
}

}  // namespace shardmix::comm
