#pragma once

/// What a rank has to store: the elements that it owns, and their values.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/shard_format.hpp"
#include "device/device.hpp"
#include "optimizer/sharded_state.hpp"

namespace shardmix::checkpoint {

/// A part of one parameter that a rank holds.
struct OwnedPiece {
  layout::Piece piece;
  std::size_t bucket = 0;  ///< in layout.buckets(), or in frozen_buckets()
};

/// What rank `rank` of `size` stores of the trainable, or of the frozen, parameters.
[[nodiscard]] std::vector<OwnedPiece> owned_pieces(const optimizer::ShardedState& state, int rank,
                                                   int size);
[[nodiscard]] std::vector<OwnedPiece> owned_frozen_pieces(const optimizer::ShardedState& state,
                                                          int rank, int size);

class ShardSource {
 public:
  virtual ~ShardSource() = default;

  /// One of the file's arrays of values.
  struct Array {
    std::string name;
    std::int64_t elements = 0;
  };
  [[nodiscard]] const std::vector<Array>& arrays() const noexcept { return arrays_; }
  [[nodiscard]] const std::vector<IndexRow>& rows() const noexcept { return rows_; }
  [[nodiscard]] const std::vector<IndexRow>& frozen_rows() const noexcept { return frozen_rows_; }

  /// Copies elements from `begin` on of an array.
  virtual void copy(std::size_t array, std::int64_t begin, std::span<float> to) const = 0;

 protected:
  std::vector<Array> arrays_;
  std::vector<IndexRow> rows_;
  std::vector<IndexRow> frozen_rows_;
};

/// The optimizer's own memory, which must stay as it is while this is used.
[[nodiscard]] std::unique_ptr<ShardSource> live_shard(const optimizer::ShardedState& state,
                                                      int rank, int size);

/// A copy, to be stored while the optimizer goes on. It keeps its memory from one to the next:
/// touching new memory would take longer than copying.
class Snapshot final : public ShardSource {
 public:
  void take(const ShardSource& source);
  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override;

 private:
  std::unique_ptr<device::Device> host_ = device::host_device(1);
  std::vector<device::Buffer> values_;  ///< of each array
};

}  // namespace shardmix::checkpoint
