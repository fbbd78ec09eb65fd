// The host's kernels are compiled for three instruction sets: all of them give the same bits.

#include <gtest/gtest.h>

#include "same_bits.hpp"

namespace shardmix::device {

std::unique_ptr<Device> device_of_x86_64(int threads);
std::unique_ptr<Device> device_of_x86_64_v3(int threads);
std::unique_ptr<Device> device_of_x86_64_v4(int threads);

namespace {

struct InstructionSet {
  const char* name;
  std::unique_ptr<Device> (*device)(int threads);
  bool is_there;
};

class InstructionSets : public ::testing::TestWithParam<InstructionSet> {
 protected:
  void SetUp() override {
    if (!GetParam().is_there) GTEST_SKIP() << "this processor has no " << GetParam().name;
  }
};

TEST_P(InstructionSets, UpdateAlike) {
  expect_same_updates(*host_device(2), *GetParam().device(1));
}

TEST_P(InstructionSets, ReduceAlike) {
  expect_same_reductions(*host_device(2), *GetParam().device(1));
}

INSTANTIATE_TEST_SUITE_P(All, InstructionSets,
                         ::testing::Values(InstructionSet{"x86_64", &device_of_x86_64, true},
                                           InstructionSet{"x86_64_v3", &device_of_x86_64_v3,
                                                          __builtin_cpu_supports("avx2") &&
                                                              __builtin_cpu_supports("fma")},
                                           InstructionSet{"x86_64_v4", &device_of_x86_64_v4,
                                                          __builtin_cpu_supports("avx512f") &&
                                                              __builtin_cpu_supports("avx512bw") &&
                                                              __builtin_cpu_supports("avx512cd") &&
                                                              __builtin_cpu_supports("avx512dq") &&
                                                              __builtin_cpu_supports("avx512vl")}),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace shardmix::device
