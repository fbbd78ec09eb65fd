#include "layout/layout.hpp"
#include "optimizer/sharded_state.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix {

MemoryReport plan_memory(const Parameters& parameters, const Rule& rule, int rank, int size,
                         const OptimizerOptions& options) {
  const layout::Layout layout(parameters, options.bucket_elements);
  const layout::Shard shard = layout::shard(layout, rank, size);
  const RuleStates states = states_of(rule);
  const std::int64_t fp32_shard = 4 * shard.elements;
  return {.parameter = layout.parameter_bytes(),
          .gradient = layout.gradient_bytes(),
          .reduced_gradient =
              static_cast<std::int64_t>(optimizer::levels_for(options.micro_batches)) * fp32_shard,
          .master = (options.master == Master::full ? 4 : 2) * shard.bf16_elements,
          .m1 = states.m1 ? fp32_shard : 0,
          .m2 = states.m2 ? fp32_shard : 0,
          .v = states.v ? fp32_shard : 0};
}

}  // namespace shardmix
