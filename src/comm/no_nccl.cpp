#include "comm/transports.hpp"
#include "shardmix/error.hpp"

namespace shardmix::comm {
namespace {

[[noreturn]] void fail() {
  throw DeviceError(
      "this build of shardmix has no NCCL; configure it with SHARDMIX_NCCL=ON where CUDA and NCCL "
      "are installed");
}

}  // namespace

bool has_nccl() noexcept {
  return false;
}

std::unique_ptr<Collectives> nccl_collectives(Group& /*group*/, device::Device& /*device*/) {
  fail();
}

std::unique_ptr<Collectives> nccl_hierarchical_collectives(Group& /*group*/,
                                                           device::Device& /*device*/) {
  fail();
}

}  // namespace shardmix::comm
