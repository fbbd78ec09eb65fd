#include "train/batch.hpp"

#include <algorithm>

namespace shardmix::train {

SequenceRange part_of(std::int64_t total, std::int64_t part, std::int64_t parts) noexcept {
  return {.begin = total * part / parts, .end = total * (part + 1) / parts};
}

BatchPlan plan_batch(std::int64_t batch, std::int64_t micro_batch, int rank, int ranks) noexcept {
  const std::int64_t largest_part = (batch + ranks - 1) / ranks;
  BatchPlan plan{.batch = batch, .local = part_of(batch, rank, ranks)};
  if (micro_batch > 0) {
    plan.micro_batches = std::max<std::int64_t>(1, (largest_part + micro_batch - 1) / micro_batch);
  }
  plan.loss_scale = static_cast<double>(ranks) * static_cast<double>(plan.micro_batches) /
                    static_cast<double>(batch);
  return plan;
}

SequenceRange BatchPlan::micro_batch(std::int64_t index) const noexcept {
  const SequenceRange part = part_of(local.size(), index, micro_batches);
  return {.begin = local.begin + part.begin, .end = local.begin + part.end};
}

}  // namespace shardmix::train
