#pragma once

/// What the ranks do together. One interface; MPI and NCCL stand behind it.
///
/// The two bulk operations move bytes and never add: a reduction brings every rank's copy of this
/// rank's slice within reach, and the device adds them in an order that is ours. All functions are
/// collective, and all ranks must call them in the same order. They throw CommError.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shardmix::comm {

/// One bucket of a flat buffer, cut into a slice for each rank.
struct SlicedBucket {
  std::byte* data = nullptr;  ///< this rank's copy of the whole bucket
  std::vector<std::int64_t>
      cuts;  ///< size() + 1 byte offsets: rank r's slice is [cuts[r], cuts[r + 1])
};

/// A reduction under way. The bucket may be written again once this object is gone on all ranks.
class Reduction {
 public:
  virtual ~Reduction() = default;
  /// Waits; then where each rank's copy of this rank's slice can be read, in the order of ranks.
  [[nodiscard]] virtual std::span<const void* const> sources() = 0;
};

/// A gather under way.
class Gather {
 public:
  virtual ~Gather() = default;
  /// Waits until the bucket holds every rank's slice.
  virtual void wait() = 0;
};

class Collectives {
 public:
  virtual ~Collectives() = default;
  Collectives() = default;
  Collectives(const Collectives&) = delete;
  Collectives& operator=(const Collectives&) = delete;

  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;

  [[nodiscard]] virtual std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) = 0;
  [[nodiscard]] virtual std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket) = 0;

  virtual void all_reduce_sum(std::span<double> values) = 0;
  virtual void all_reduce_sum(std::span<std::int64_t> values) = 0;
  virtual void all_reduce_min(std::span<std::int64_t> values) = 0;
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// Every rank's text, in the order of ranks.
  [[nodiscard]] virtual std::vector<std::string> all_gather(std::string_view text) = 0;
  virtual void barrier() = 0;
};

}  // namespace shardmix::comm
