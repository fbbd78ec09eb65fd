#include "comm/transports.hpp"

#include <fmt/format.h>

#include <cstdio>

#include "shardmix/error.hpp"

namespace shardmix::comm {
namespace {

std::unique_ptr<Collectives> hierarchical(Group& group, device::Device& device, bool is_gpu) {
  return is_gpu ? nccl_hierarchical_collectives(group, device)
                : hierarchical_collectives(group, device);
}

std::unique_ptr<Collectives> best(Group& group, device::Device& device, bool is_gpu) {
  const Topology& topology = group.topology();
  const auto anywhere = is_gpu && has_nccl() ? nccl_collectives : mpi_collectives;
  // One rank alone reads its gradients where they are, as neighbours do.
  const bool shares_memory = (topology.local_size > 1 || topology.nodes == 1) && topology.regular;
  if (!shares_memory || (topology.nodes > 1 && is_gpu && !has_nccl()))
    return anywhere(group, device);
  try {
    return topology.nodes == 1 ? shared_collectives(group, device)
                               : hierarchical(group, device, is_gpu);
  } catch (const Error& error) {  // the same on all ranks
    if (group.watch().over()) throw;
    auto other = anywhere(group, device);
    if (group.rank() == 0)
      fmt::print(stderr, "warning: {}; {} is used\n", error.what(), other->name());
    return other;
  }
}

}  // namespace

std::unique_ptr<Collectives> make_collectives(std::string_view name, Group& group,
                                              device::Device& device, bool is_gpu) {
  const Topology& topology = group.topology();
  const auto require = [&](bool holds, std::string_view what) {
    if (holds) return;
    throw ConfigError(fmt::format("collectives '{}' need {}, but this run has {}{}", name, what,
                                  describe(topology), is_gpu ? ", with GPUs" : ""));
  };
  if (name == "auto") return best(group, device, is_gpu);
  if (name == "mpi") return mpi_collectives(group, device);
  if (name == "shared") {
    require(topology.nodes == 1, "one node");
    return shared_collectives(group, device);
  }
  if (name == "hierarchical") {
    require(topology.regular, "nodes of equally many ranks, whose numbers are consecutive");
    return hierarchical(group, device, is_gpu);
  }
  if (name == "nccl") {
    require(is_gpu, "GPUs (--device cuda)");
    return nccl_collectives(group, device);
  }
  throw ConfigError(
      fmt::format("there are no collectives '{}'; expected one of auto, mpi, shared, "
                  "hierarchical, nccl",
                  name));
}

}  // namespace shardmix::comm
