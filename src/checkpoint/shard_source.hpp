#pragma once

/// What a rank has to store: the elements that it owns, and their values.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/shard_format.hpp"
#include "layout/layout.hpp"

namespace shardmix::checkpoint {

/// A part of one parameter that a rank holds.
struct OwnedPiece {
  layout::Piece piece;
  std::size_t bucket = 0;  ///< in layout.buckets(), or in frozen_buckets()
};

/// What rank `rank` of `size` stores of these buckets.
[[nodiscard]] std::vector<OwnedPiece> owned_pieces(const layout::Layout& layout,
                                                   const std::vector<layout::Bucket>& buckets,
                                                   int rank, int size);

/// What a file holds, but for the values.
struct ShardContents {
  /// One of the file's arrays of values.
  struct Array {
    std::string name;
    std::int64_t elements = 0;
  };
  std::vector<IndexRow> rows;
  std::vector<IndexRow> frozen_rows;
  std::vector<Array> arrays;
};

/// What rank `rank` of `size` stores, of `states`.
[[nodiscard]] ShardContents contents_of(const layout::Layout& layout,
                                        const std::vector<std::string>& states, int rank, int size);

/// In each array the values of one part follow those of the part before.
[[nodiscard]] ShardContents joined(const std::vector<ShardContents>& parts);

class ShardSource {
 public:
  explicit ShardSource(ShardContents contents = {}) : contents_(std::move(contents)) {}
  virtual ~ShardSource() = default;

  [[nodiscard]] const ShardContents& contents() const noexcept { return contents_; }

  /// Copies elements from `begin` on of an array.
  virtual void copy(std::size_t array, std::int64_t begin, std::span<float> to) const = 0;

 protected:
  ShardContents contents_;
};

/// Several sources as one. They must outlive this.
class JoinedShards final : public ShardSource {
 public:
  explicit JoinedShards(std::vector<const ShardSource*> parts);
  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override;

 private:
  std::vector<const ShardSource*> parts_;
};

}  // namespace shardmix::checkpoint
