#pragma once

/// What transports share whose ranks address the memory of their node.

#include <algorithm>

#include "comm/agree.hpp"
#include "comm/node_memory.hpp"

namespace shardmix::comm {

class NodeCollectives : public Collectives {
 public:
  NodeCollectives(Group& group, device::Device& device)
      : Collectives(group, device), memory_(*this, device.is_host() ? nullptr : &device) {
    if (device.is_host()) return;
    const auto bytes = std::int64_t{sizeof(device::SquareSum)};
    parts_ = memory_.allocate(2 * bytes);
    agreed(*this,
           [&] { all_parts_ = device::Buffer(device, group.topology().local_size * bytes); });
  }

  device::Buffer allocate(std::int64_t bytes) override { return memory_.allocate(bytes); }
  bool is_read(std::int64_t reductions) override {
    return memory_.all_reached(Mark::finished, reductions);
  }
  void wait_until_read(std::int64_t reductions) override {
    memory_.await(Mark::finished, reductions, "the node to read this rank's gradients");
  }
  void discard(std::byte* memory, std::int64_t bytes) override {
    NodeMemory::discard(memory, bytes);
  }
  std::vector<std::byte*> copies(const SlicedBucket& bucket) override {
    return neighbours(bucket, rank());
  }

  /// The copies that this rank's neighbours have of a slice.
  [[nodiscard]] std::vector<std::byte*> neighbours(const SlicedBucket& bucket, int slice) const {
    std::vector<std::byte*> places = memory_.views(bucket.slice(slice), bucket.slice_bytes(slice));
    places.erase(places.begin() + group().topology().local_rank);
    return places;
  }

  [[nodiscard]] NodeMemory& memory() noexcept { return memory_; }

 protected:
  /// A gather begins: its number, from 1. This rank's slice is then in all copies().
  [[nodiscard]] std::int64_t publish(const SlicedBucket& bucket, Written written) {
    if (written == Written::here) {
      for (std::byte* copy : copies(bucket))
        device().queue_copy(copy, bucket.slice(rank()),
                            static_cast<std::size_t>(bucket.slice_bytes(rank())));
    }
    return ++gathers_;
  }

  /// Queues the sum over the node's GPUs of one in memory of the device. Every rank puts its part
  /// where the others read it. Nobody still reads what was there two sums ago: to begin the last
  /// one all had read it.
  void add_up_on_node(device::SquareSum* sum) {
    constexpr std::size_t bytes = sizeof *sum;
    auto* part = parts_.as<device::SquareSum>() + ++sums_ % 2;
    device().queue_copy(part, sum, bytes);
    memory_.reach(Mark::summed, sums_);
    memory_.await(Mark::summed, sums_, "the peers' part of a sum");
    auto* next = all_parts_.as<device::SquareSum>();
    for (const std::byte* place : memory_.views(reinterpret_cast<std::byte*>(part), bytes))
      device().queue_copy(next++, place, bytes);
    device().add_sums(all_parts_.as<device::SquareSum>(), group().topology().local_size, sum);
  }

 private:
  NodeMemory memory_;
  // On GPUs: this rank's part of a sum (two of them, in turn), and all the node's.
  device::Buffer parts_;
  device::Buffer all_parts_;
  std::int64_t sums_ = 0;
  std::int64_t gathers_ = 0;
};

}  // namespace shardmix::comm
