#pragma once

/// The transports of buckets, and the choice among them.

#include <memory>
#include <string_view>

#include "comm/collectives.hpp"
#include "comm/group.hpp"
#include "device/device.hpp"

namespace shardmix::comm {

/// Point to point messages of MPI between all ranks.
[[nodiscard]] std::unique_ptr<Collectives> mpi_collectives(Group& group, device::Device& device);

/// Between the ranks of one node: buckets lie in memory that all of them address, and no byte is
/// copied. Collective. Throws CommError where the ranks can't map each other's memory.
[[nodiscard]] std::unique_ptr<Collectives> shared_collectives(Group& group, device::Device& device);

/// As shared on each node, and messages between nodes, which carry each node's sum once.
/// Collective, for a regular topology. Throws CommError as shared does.
[[nodiscard]] std::unique_ptr<Collectives> hierarchical_collectives(Group& group,
                                                                    device::Device& device);

/// NCCL between GPUs. Collective. Throws DeviceError where the build has no NCCL.
[[nodiscard]] std::unique_ptr<Collectives> nccl_collectives(Group& group, device::Device& device);

/// The hierarchical transport of GPUs: as shared on each node, and NCCL between nodes.
[[nodiscard]] std::unique_ptr<Collectives> nccl_hierarchical_collectives(Group& group,
                                                                         device::Device& device);

/// Whether the build has NCCL.
[[nodiscard]] bool has_nccl() noexcept;

/// The transport called `name`, or the best one for "auto": shared on one node, hierarchical on a
/// regular topology with several ranks a node, and else NCCL between GPUs and MPI between hosts.
/// Collective. Throws ConfigError for an unknown name or one that this topology or device can't
/// have.
[[nodiscard]] std::unique_ptr<Collectives> make_collectives(std::string_view name, Group& group,
                                                            device::Device& device, bool is_gpu);

}  // namespace shardmix::comm
