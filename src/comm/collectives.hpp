#pragma once

/// What the ranks do together: buckets, over one of several transports, and small values, over MPI.
///
/// The two bulk operations move bytes, and add where that saves bytes on a network: a reduction
/// brings what is to be added for this rank's slice within reach, and the device adds it, in an
/// order that is ours. All functions are collective unless they say otherwise, and all ranks must
/// call them in the same order. Each has the group's deadline: they throw CommError that names the
/// rank at fault.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.hpp"
#include "shardmix/dtype.hpp"

namespace shardmix::comm {

class Group;
class QueueWatch;

/// One bucket of a flat buffer, cut into a slice for each rank.
struct SlicedBucket {
  std::byte* data = nullptr;  ///< this rank's copy of the whole bucket, in memory of allocate()
  DType dtype = DType::fp32;
  std::vector<std::int64_t>
      cuts;  ///< size() + 1 byte offsets: rank r's slice is [cuts[r], cuts[r + 1])

  [[nodiscard]] std::byte* slice(int rank) const {
    return data + cuts[static_cast<std::size_t>(rank)];
  }
  [[nodiscard]] std::int64_t slice_bytes(int rank) const {
    return cuts[static_cast<std::size_t>(rank) + 1] - cuts[static_cast<std::size_t>(rank)];
  }
};

/// What is to be added for this rank's slice, as a binary tree over the arrays.
struct Contributions {
  std::span<const void* const> arrays;  ///< one from each rank, or each node, in their order
  DType dtype = DType::fp32;            ///< the bucket's, or fp32 for sums over a node
};

/// A reduction under way. This rank is done with it when the object is gone.
class Reduction {
 public:
  virtual ~Reduction() = default;
  /// Whether contributions() would return at once. Local.
  [[nodiscard]] virtual bool ready() = 0;
  /// Waits. Valid while this object lives.
  [[nodiscard]] virtual Contributions contributions() = 0;
};

/// A gather under way.
class Gather {
 public:
  virtual ~Gather() = default;
  /// Waits until the bucket holds every rank's slice, and no rank reads this one's copy any more.
  virtual void wait() = 0;
};

/// Where a rank's slice was written before its gather.
enum class Written : std::uint8_t {
  here,        ///< in this rank's copy of the bucket
  everywhere,  ///< in all copies() too
};

class Collectives {
 public:
  /// `group` and `device` must outlive this object and all that comes of it.
  Collectives(Group& group, device::Device& device);
  virtual ~Collectives();
  Collectives(const Collectives&) = delete;
  Collectives& operator=(const Collectives&) = delete;

  /// Local.
  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int size() const noexcept;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;

  /// Zeroed memory for buckets, of the same size on each rank.
  [[nodiscard]] virtual device::Buffer allocate(std::int64_t bytes);

  /// Whether contributions are the peers' own buckets, at no cost in memory. Local.
  [[nodiscard]] virtual bool reads_in_place() const noexcept { return false; }

  [[nodiscard]] virtual std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) = 0;

  /// Whether all ranks are done with the first `reductions` that were begun. Local.
  [[nodiscard]] virtual bool is_read(std::int64_t /*reductions*/) { return true; }
  /// Waits for that: the buckets may be written again.
  virtual void wait_until_read(std::int64_t /*reductions*/) {}
  /// How many reductions were begun so far. Local.
  [[nodiscard]] std::int64_t reductions() const noexcept { return reductions_; }
  /// Makes memory of allocate() zero, and gives its pages back until they are written again. Local.
  virtual void discard(std::byte* memory, std::int64_t bytes);

  /// The peers' copies of this rank's slice, where this rank can write them itself. Local.
  [[nodiscard]] virtual std::vector<std::byte*> copies(const SlicedBucket& /*bucket*/) {
    return {};
  }

  [[nodiscard]] virtual std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket,
                                                             Written written) = 0;

  /// Queues the sum over the ranks of one in memory of the device.
  virtual void add_up(device::SquareSum* sum);

  /// Waits until all that is queued on the device is done, or another thing that it can tell.
  virtual void wait_for_device(bool (device::Device::*is_done)() = &device::Device::is_idle);

  /// What the trainer queues from now on waits for what is queued on the device. Local.
  void lead_trainer();

  void all_reduce_sum(std::span<std::int64_t> values);
  void all_reduce_min(std::span<std::int64_t> values);
  void all_reduce_max(std::span<std::int64_t> values);
  void broadcast(std::span<std::byte> bytes, int root);
  /// Every rank's text, in the order of ranks.
  [[nodiscard]] std::vector<std::string> all_gather(std::string_view text);
  void barrier();

  /// Local.
  [[nodiscard]] Group& group() const noexcept { return group_; }

 protected:
  [[nodiscard]] device::Device& device() const noexcept { return device_; }
  /// A reduction begins: its number, from 1.
  [[nodiscard]] std::int64_t count_reduction();

 private:
  Group& group_;
  device::Device& device_;
  std::int64_t reductions_ = 0;
  std::unique_ptr<QueueWatch> queue_watch_;  ///< null on a host, or for one rank
};

}  // namespace shardmix::comm
