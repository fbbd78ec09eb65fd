#pragma once

#include <cstdlib>
#include <string_view>

#include "shardmix/mpi.hpp"

namespace shardmix::testing {

/// Options with what a run of the tests is for: the transport TEST_COLLECTIVES, or the best one,
/// and the device TEST_DEVICE, "cuda" or a host.
inline RuntimeOptions test_options(int threads = 0) {
  RuntimeOptions options{.threads = threads};
  if (const char* name = std::getenv("TEST_COLLECTIVES")) options.collectives = name;
  const char* device = std::getenv("TEST_DEVICE");
  if (device != nullptr && std::string_view(device) == "cuda") options.device = DeviceKind::cuda;
  return options;
}

}  // namespace shardmix::testing
