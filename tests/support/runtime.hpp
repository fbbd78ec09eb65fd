#pragma once

#include <cstdlib>

#include "shardmix/mpi.hpp"

namespace shardmix::testing {

/// Options with the transport that a run of the tests is for: TEST_COLLECTIVES, or the best one.
inline RuntimeOptions test_options(int threads = 0) {
  RuntimeOptions options{.threads = threads};
  if (const char* name = std::getenv("TEST_COLLECTIVES")) options.collectives = name;
  return options;
}

}  // namespace shardmix::testing
