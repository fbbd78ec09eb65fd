#pragma once

#include <mpi.h>

#include <memory>

#include "comm/collectives.hpp"
#include "device/device.hpp"

namespace shardmix::comm {

/// Collectives over MPI, point to point inside. Takes ownership of `communicator`; `device` gives
/// the memory that peers' slices arrive in and must outlive the result.
[[nodiscard]] std::unique_ptr<Collectives> mpi_collectives(MPI_Comm communicator,
                                                           device::Device& device);

/// The same scalars, but buckets over NCCL between GPUs. Throws DeviceError where the build has no
/// NCCL.
[[nodiscard]] std::unique_ptr<Collectives> nccl_collectives(std::unique_ptr<Collectives> scalars,
                                                            device::Device& device);

/// Whether the build has NCCL.
[[nodiscard]] bool has_nccl() noexcept;

}  // namespace shardmix::comm
