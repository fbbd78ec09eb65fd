#pragma once

#include <chrono>
#include <memory>

#include "comm/collectives.hpp"
#include "comm/group.hpp"
#include "device/device.hpp"
#include "shardmix/runtime.hpp"

namespace shardmix {

/// What stands behind a Runtime, for the rooms above. Members end in reverse order: MPI last.
struct Runtime::Impl {
  /// MPI, where this runtime started it.
  class Mpi {
   public:
    explicit Mpi(std::chrono::milliseconds deadline) : deadline_(deadline) {}
    Mpi(const Mpi&) = delete;
    Mpi& operator=(const Mpi&) = delete;
    ~Mpi();
    /// It isn't ended: that would join the other ranks, which may never come.
    void abandon() noexcept { is_abandoned_ = true; }

   private:
    std::chrono::milliseconds deadline_;
    bool is_abandoned_ = false;
  };

  ~Impl();

  std::unique_ptr<Mpi> mpi;
  int threads = 1;
  std::unique_ptr<comm::Group> group;
  std::unique_ptr<device::Device> device;
  std::unique_ptr<comm::Collectives> collectives_owner;

  [[nodiscard]] comm::Collectives& collectives() const noexcept { return *collectives_owner; }
};

}  // namespace shardmix
