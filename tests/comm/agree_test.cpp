#include "comm/agree.hpp"

#include <gtest/gtest.h>

#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::comm {
namespace {

TEST(Agreed, AllRanksThrowWhatOneRankThrew) {
  Runtime runtime = adopt(MPI_COMM_WORLD);
  for (int culprit = 0; culprit < runtime.size(); ++culprit) {
    try {
      agreed(runtime.impl().collectives(), [&] {
        if (runtime.rank() == culprit) throw CheckpointError("the disk is full");
      });
      ADD_FAILURE() << "no error for culprit " << culprit;
    } catch (const CheckpointError& error) {
      const std::string where = runtime.size() == 1 ? "" : "rank " + std::to_string(culprit) + ": ";
      EXPECT_EQ(error.what(), where + "the disk is full");
    }
  }
  // And the ranks are still in step.
  std::array<std::int64_t, 1> one{1};
  runtime.impl().collectives().all_reduce_sum(one);
  EXPECT_EQ(one[0], runtime.size());
}

TEST(Agreed, WhatAllRanksMetNamesNone) {
  Runtime runtime = adopt(MPI_COMM_WORLD);
  try {
    agreed(runtime.impl().collectives(), [] { throw ConfigError("there is no file"); });
    ADD_FAILURE() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "there is no file");
  }
}

TEST(Agreed, OfSeveralTheFirstRankSpeaksAndTheTypeIsItsOwn) {
  Runtime runtime = adopt(MPI_COMM_WORLD);
  auto& collectives = runtime.impl().collectives();
  EXPECT_THROW(agreed(collectives, [&] { throw ConfigError("bad"); }), ConfigError);
  EXPECT_THROW(agreed(collectives, [&] { throw DeviceError("bad"); }), DeviceError);
  EXPECT_THROW(agreed(collectives, [&] { throw CommError("bad"); }), CommError);
  EXPECT_THROW(agreed(collectives, [&] { throw std::runtime_error("bad"); }), Error);
  EXPECT_NO_THROW(agreed(collectives, [] {}));
}

}  // namespace
}  // namespace shardmix::comm
