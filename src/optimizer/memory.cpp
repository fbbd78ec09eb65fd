#include "layout/layout.hpp"
#include "optimizer/sharded_state.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix {

MemoryReport plan_memory(const Parameters& parameters, const Rule& rule, int rank, int size,
                         const OptimizerOptions& options) {
  const layout::Layout layout(parameters, options.bucket_elements != 0
                                              ? options.bucket_elements
                                              : default_bucket_elements(DeviceKind::host, size));
  const layout::Shard shard = layout::shard(layout, rank, size);
  const auto [m1, m2, v] = optimizer::moment_bytes(states_of(rule), options.state, shard.elements);
  std::int64_t master = 0;
  for (std::size_t b = 0; b < shard.slices.size(); ++b) {
    master += shard.slices[b].range.size() *
              optimizer::master_bytes(layout.buckets()[b].dtype, options.master);
  }
  return {
      .parameter = layout.parameter_bytes(),
      .gradient = optimizer::gradient_bytes(layout, options),
      .reduced_gradient = static_cast<std::int64_t>(optimizer::levels_for(options.micro_batches)) *
                          4 * shard.elements,
      .master = master,
      .m1 = m1,
      .m2 = m2,
      .v = v};
}

}  // namespace shardmix
