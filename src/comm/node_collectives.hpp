#pragma once

/// What transports share whose ranks address the memory of their node.

#include <algorithm>

#include "comm/node_memory.hpp"

namespace shardmix::comm {

class NodeCollectives : public Collectives {
 public:
  NodeCollectives(Group& group, device::Device& device)
      : Collectives(group, device), memory_(*this, device.is_host() ? nullptr : &device) {}

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

 private:
  NodeMemory memory_;
  std::int64_t gathers_ = 0;
};

}  // namespace shardmix::comm
