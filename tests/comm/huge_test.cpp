// Messages beyond what an int counts.

#include <gtest/gtest.h>

#include <vector>

#include "comm/runtime_impl.hpp"
#include "comm/transports.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::comm {
namespace {

TEST(Huge, SlicesBeyondTwoGigabytesArriveWhole) {
  Runtime runtime = adopt(MPI_COMM_WORLD, {.threads = 1});
  ASSERT_EQ(runtime.size(), 2);
  constexpr std::int64_t huge = (std::int64_t{1} << 31) + 9;
  // Rank 1's slice is the huge one: it receives it in the reduction and sends it in the gather.
  const auto collectives =
      make_collectives("mpi", *runtime.impl().group, *runtime.impl().device, false);
  const device::Buffer memory = collectives->allocate(huge + 1);
  const SlicedBucket bucket{.data = memory.data(), .cuts = {0, 1, huge + 1}};
  const auto content = [](int rank, std::int64_t i) {
    return static_cast<std::byte>(i / 4096 + rank * 3);
  };
  constexpr std::int64_t stride = 4093;
  const std::int64_t last = huge;
  for (std::int64_t i = 1; i < huge + 1; i += stride) memory.data()[i] = content(runtime.rank(), i);
  memory.data()[last] = content(runtime.rank(), last);
  {
    const auto reduction = collectives->begin_reduce(bucket);
    const auto sources = reduction->contributions().arrays;
    if (runtime.rank() == 1) {
      const auto* other = static_cast<const std::byte*>(sources[0]);
      for (std::int64_t i = 1; i < huge + 1; i += stride)
        ASSERT_EQ(other[i - 1], content(0, i)) << i;
      ASSERT_EQ(other[last - 1], content(0, last));
    }
  }
  collectives->begin_gather(bucket, Written::here)->wait();
  for (std::int64_t i = 1; i < huge + 1; i += stride)
    ASSERT_EQ(memory.data()[i], content(1, i)) << i;
  ASSERT_EQ(memory.data()[last], content(1, last));
}

}  // namespace
}  // namespace shardmix::comm
