#include "device/device.hpp"
#include "shardmix/error.hpp"

namespace shardmix::device {

std::unique_ptr<Device> cuda_device(int /*place*/) {
  throw DeviceError(
      "this build of shardmix has no CUDA; configure it with SHARDMIX_CUDA=ON where nvcc is "
      "installed, or use the host");
}

}  // namespace shardmix::device
