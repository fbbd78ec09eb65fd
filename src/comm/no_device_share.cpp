#include "comm/device_share.hpp"
#include "shardmix/error.hpp"

namespace shardmix::comm {

std::unique_ptr<DeviceShare> share_device() {
  throw DeviceError("this build of shardmix has no CUDA");
}

}  // namespace shardmix::comm
