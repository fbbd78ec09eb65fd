#pragma once

/// Where every parameter lies: the global, world-size-independent index space, its buckets, and
/// each rank's slices. Arithmetic alone: nothing here communicates or allocates.
///
/// Elements are numbered in blocks of 256. Every parameter begins at a block; the last block of a
/// parameter is padded with elements that are always zero. Parameters are ordered by region
/// (trainable fp32, bf16, fp16, then frozen ones) and, within it, as they were declared. The
/// gradient buffer has the same offsets as the parameter buffer and ends with the trainable
/// regions.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "shardmix/parameters.hpp"

namespace shardmix::layout {

/// A half-open range of global element numbers.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  [[nodiscard]] constexpr std::int64_t size() const noexcept { return end - begin; }
  [[nodiscard]] constexpr bool empty() const noexcept { return begin >= end; }
  bool operator==(const Range&) const = default;
};

[[nodiscard]] constexpr Range intersection(Range a, Range b) noexcept {
  const Range both{a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
  return both.empty() ? Range{both.begin, both.begin} : both;
}

/// A run of the layout that is communicated as one unit: of one region, its bounds independent of
/// the world size.
struct Bucket {
  Range range;  ///< whole blocks
  DType dtype = DType::fp32;
  bool trainable = true;
  std::int64_t byte_begin = 0;  ///< of its first element, in the parameter and gradient buffers
};

/// A part of one parameter within some range: real elements, never padding.
struct Piece {
  std::size_t parameter = 0;
  std::int64_t offset = 0;  ///< of its first element, in the parameter
  std::int64_t begin = 0;   ///< of its first element, in the layout
  std::int64_t count = 0;
};

/// A run of whole blocks whose parameters share their group; padding included.
struct GroupRun {
  Range range;
  std::size_t group = 0;
};

class Layout {
 public:
  /// `bucket_elements` is the most that a bucket holds; it must be a positive multiple of 256
  /// (ConfigError).
  Layout(const Parameters& parameters, std::int64_t bucket_elements);

  /// Trainable buckets, in the order of the forward pass.
  [[nodiscard]] const std::vector<Bucket>& buckets() const noexcept { return buckets_; }
  /// Buckets of frozen parameters: they are checkpointed, but never reduced or updated.
  [[nodiscard]] const std::vector<Bucket>& frozen_buckets() const noexcept {
    return frozen_buckets_;
  }
  /// The positions in buckets() or frozen_buckets() that parameter `i` lies in; empty if it has no
  /// elements.
  [[nodiscard]] const std::vector<std::size_t>& buckets_of(std::size_t i) const noexcept {
    return buckets_of_[i];
  }

  [[nodiscard]] Range range_of(std::size_t parameter) const noexcept { return ranges_[parameter]; }
  /// In the parameter buffer; for a trainable element in the gradient buffer as well.
  [[nodiscard]] std::int64_t byte_offset(std::int64_t element) const noexcept;
  [[nodiscard]] const std::vector<Group>& groups() const noexcept { return groups_; }

  [[nodiscard]] std::int64_t parameter_bytes() const noexcept { return regions_.back().byte_end; }
  [[nodiscard]] std::int64_t gradient_bytes() const noexcept {
    return regions_[all_dtypes.size() - 1].byte_end;
  }

  [[nodiscard]] std::vector<Piece> pieces(Range range) const;
  [[nodiscard]] std::vector<GroupRun> group_runs(Range range) const;

 private:
  struct Region {
    DType dtype = DType::fp32;
    bool trainable = true;
    Range range;
    std::int64_t byte_begin = 0;
    std::int64_t byte_end = 0;
  };
  void place(const Parameters& parameters);
  void cut_buckets(std::int64_t bucket_elements);

  std::array<Region, 2 * all_dtypes.size()> regions_;
  std::vector<Range> ranges_;          ///< of each parameter, without padding
  std::vector<std::size_t> by_begin_;  ///< parameters that have elements, in the layout's order
  std::vector<Group> groups_;          ///< the distinct ones
  std::vector<std::size_t> group_of_;  ///< of each parameter
  std::vector<Bucket> buckets_;
  std::vector<Bucket> frozen_buckets_;
  std::vector<std::vector<std::size_t>> buckets_of_;
};

/// The slice of a bucket that belongs to rank `rank` of `size`: whole blocks, as even as they go.
[[nodiscard]] Range slice(const Bucket& bucket, int rank, int size) noexcept;

/// A rank's part of a bucket and where its state begins in the rank's shard.
struct ShardSlice {
  Range range;
  std::int64_t shard_begin = 0;  ///< among the elements of all its slices
};

/// All slices of one rank, in the order of layout.buckets().
struct Shard {
  std::vector<ShardSlice> slices;
  std::int64_t elements = 0;  ///< padding included
};

[[nodiscard]] Shard shard(const Layout& layout, int rank, int size);

}  // namespace shardmix::layout
