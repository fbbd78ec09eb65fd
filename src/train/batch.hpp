#pragma once

/// Who computes which sequences of a step. The global batch is cut into slots, one for each
/// micro-batch of each rank; the optimizer adds the slots' gradients as a fixed binary tree, so
/// that any number of ranks that makes the same slots (1, 2 and 4, with as many micro-batches as
/// that takes) gets the same bits. Pure arithmetic.

#include <cstdint>
#include <optional>

namespace shardmix::train {

/// Sequences [begin, end) of the global batch.
struct SequenceRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  [[nodiscard]] std::int64_t size() const noexcept { return end - begin; }
  bool operator==(const SequenceRange&) const = default;
};

/// Part number `part` of `parts` of [0, total): the parts follow each other without gaps and differ
/// in size by one at most. There may be more parts than sequences; then some are empty.
[[nodiscard]] SequenceRange part_of(std::int64_t total, std::int64_t part,
                                    std::int64_t parts) noexcept;

struct BatchPlan {
  std::int64_t batch = 0;  ///< sequences of a step over all ranks
  int rank = 0;
  int ranks = 1;
  /// The same number on every rank: the reduction of each is collective.
  std::int64_t micro_batches = 1;
  /// Factor on the sum of the local sequences' losses before backward. The optimizer takes the mean
  /// over ranks and micro-batches, whatever each of them holds; this turns it into the mean over
  /// the global batch.
  double loss_weight = 1.0;

  /// Sequences of micro-batch `index` of this rank, possibly none: slot index * ranks + rank.
  [[nodiscard]] SequenceRange micro_batch(std::int64_t index) const noexcept;
};

/// `micro_batch`: most sequences that a rank computes at once; 0: all of its part; unset: a quarter
/// of the batch.
[[nodiscard]] BatchPlan plan_batch(std::int64_t batch, std::optional<std::int64_t> micro_batch,
                                   int rank, int ranks) noexcept;

}  // namespace shardmix::train
