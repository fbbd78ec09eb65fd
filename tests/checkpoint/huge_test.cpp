// Checkpoints of several blocks of 64 MiB a file.

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/manifest.hpp"
#include "checkpoint/shard_reader.hpp"
#include "checkpoint/support.hpp"
#include "shardmix/error.hpp"
#include "support/states.hpp"

namespace shardmix {
namespace {

namespace fs = std::filesystem;

/// Its four states have 288 MB each, and begin at no multiple of a block.
Parameters large_parameters() {
  Parameters parameters;
  parameters.add("odd", {257}, fp32);
  parameters.add("large", {72'000'000}, fp32);
  return parameters;
}

class HugeCheckpointTest : public ::testing::Test {
 protected:
  HugeCheckpointTest() {
    testing::start(optimizer_, runtime_.rank());
    testing::train_steps(optimizer_, 1);
    saved_ = checkpoints_.save(optimizer_);
    info_ = inspect_checkpoint(saved_);
  }

  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  testing::SharedDirectory directory_;
  ShardedOptimizer optimizer_{runtime_, large_parameters(), testing::test_rule};
  Checkpoints checkpoints_{runtime_, directory_.path()};
  fs::path saved_;
  CheckpointInfo info_;
};

TEST_F(HugeCheckpointTest, LoadsWhatWasSaved) {
  ASSERT_GE(info_.files[0].blocks.size(), 5u);
  ShardedOptimizer loaded(runtime_, large_parameters(), testing::test_rule);
  EXPECT_EQ(checkpoints_.load(saved_, loaded), 1);
  EXPECT_TRUE(testing::states_of_shard(loaded) == testing::states_of_shard(optimizer_));
}

TEST_F(HugeCheckpointTest, ABlockThatNobodyNeedsIsVerifiedToo) {
  const CheckpointFile& file = info_.files.back();
  const CheckpointArray* m2 = checkpoint::find_array(file, "/state/m2");
  const std::int64_t block = checkpoint::block_of(file, m2->offset) + 1;
  ASSERT_LT(checkpoint::block_end(file, block), m2->offset + m2->bytes) << "all of it is m2's";
  MPI_Barrier(MPI_COMM_WORLD);
  if (runtime_.rank() == 0) {
    std::fstream bytes(saved_ / file.name, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(checkpoint::block_begin(file, block) + 12345);
    bytes.put('!');
  }
  MPI_Barrier(MPI_COMM_WORLD);
  ShardedOptimizer adamw(runtime_, large_parameters(), AdamW{});
  try {
    checkpoints_.load(saved_, adamw);
    ADD_FAILURE() << "accepted";
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find(file.name), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace shardmix
