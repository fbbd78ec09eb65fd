// Accesses through vector types must be aligned, as on a GPU.

#include "support.hpp"

namespace emulation::testing {
namespace {

__global__ void copy_four(const unsigned* from, unsigned* to) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}

TEST(Alignment, OfVectorsIsKept) {
  DeviceArray<unsigned> from(std::vector<unsigned>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  DeviceArray<unsigned> to(8);
  launch(1, 1, nullptr, &copy_four, from.data() + 4, to.data());
  EXPECT_EQ(to.values()[3], 8u);
}

TEST(AlignmentDeathTest, OfVectorsIsChecked) {
  DeviceArray<unsigned> from(9);
  DeviceArray<unsigned> to(8);
  EXPECT_KERNEL_DEATH(launch(1, 1, nullptr, &copy_four, from.data() + 1, to.data()),
                      "misaligned address .*16 byte alignment");
  EXPECT_KERNEL_DEATH(launch(1, 1, nullptr, &copy_four, from.data(), to.data() + 2),
                      "kernel .*copy_four.*did what a sanitizer refuses|"
                      "the device process ended by itself");
}

}  // namespace
}  // namespace emulation::testing
