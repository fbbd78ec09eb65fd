// The host's kernels compiled for one instruction set, in a library of their own: so the linker
// cannot put a function that was compiled for another one in their place.

#include "device/device.hpp"

#if defined(__GNUC__)
#define EXPORTED __attribute__((visibility("default")))
#endif

namespace shardmix::device {

EXPORTED std::unique_ptr<Device> SHARDMIX_TEST_FACTORY(int threads);

std::unique_ptr<Device> SHARDMIX_TEST_FACTORY(int threads) {
  return host_device(threads);
}

}  // namespace shardmix::device
