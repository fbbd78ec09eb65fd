// A GPU gives the same bits as the host.

#include <gtest/gtest.h>

#include "same_bits.hpp"
#include "shardmix/error.hpp"

namespace shardmix::device {
namespace {

class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      gpu_ = cuda_device(0);
    } catch (const DeviceError& error) {
      GTEST_SKIP() << error.what();
    }
  }

  std::unique_ptr<Device> gpu_;
};

TEST_F(Gpu, UpdatesAsTheHostDoes) {
  expect_same_updates(*host_device(1), *gpu_);
}

TEST_F(Gpu, ReducesAsTheHostDoes) {
  expect_same_reductions(*host_device(1), *gpu_);
}

}  // namespace
}  // namespace shardmix::device
