#pragma once

#include <memory>

#include "comm/collectives.hpp"
#include "comm/group.hpp"
#include "device/device.hpp"
#include "shardmix/runtime.hpp"

namespace shardmix {

/// What stands behind a Runtime, for the rooms above. Members end in reverse order: MPI last.
struct Runtime::Impl {
  std::shared_ptr<void> mpi;  ///< keeps MPI alive where this runtime started it
  int threads = 1;
  std::unique_ptr<comm::Group> group;
  std::unique_ptr<device::Device> device;
  std::unique_ptr<comm::Collectives> collectives_owner;

  [[nodiscard]] comm::Collectives& collectives() const noexcept { return *collectives_owner; }
};

}  // namespace shardmix
