// What nvcc makes of the kernels' functions gives the same bits as the host's kernels, and so does
// a GPU where there is one.

#include <gtest/gtest.h>

#include "same_bits.hpp"

namespace shardmix::device {

std::unique_ptr<Device> warp_device();

namespace {

TEST(Warp, UpdatesAsTheHostDoes) {
  expect_same_updates(*host_device(1), *warp_device());
}

TEST(Warp, ReducesAsTheHostDoes) {
  expect_same_reductions(*host_device(1), *warp_device());
}

}  // namespace
}  // namespace shardmix::device
