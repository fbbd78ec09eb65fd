#include "train/batch.hpp"

namespace shardmix::train {

SequenceRange part_of(std::int64_t total, std::int64_t part, std::int64_t parts) noexcept {
  return {.begin = total * part / parts, .end = total * (part + 1) / parts};
}

BatchPlan plan_batch(std::int64_t batch, std::optional<std::int64_t> micro_batch, int rank,
                     int ranks) noexcept {
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  std::int64_t micro_batches = 1;
  if (!micro_batch) {
    micro_batches = ceil_div(4, ranks);
  } else if (*micro_batch > 0) {
    micro_batches = ceil_div(batch, *micro_batch * ranks);
  }
  return {.batch = batch,
          .rank = rank,
          .ranks = ranks,
          .micro_batches = micro_batches,
          .loss_weight = static_cast<double>(ranks * micro_batches) / static_cast<double>(batch)};
}

SequenceRange BatchPlan::micro_batch(std::int64_t index) const noexcept {
  return part_of(batch, index * ranks + rank, ranks * micro_batches);
}

}  // namespace shardmix::train
