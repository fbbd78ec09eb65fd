#include "checkpoint/reshard.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "checkpoint/manifest.hpp"
#include "checkpoint/support.hpp"
#include "shardmix/error.hpp"
#include "support/states.hpp"

namespace shardmix {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t bucket_elements = 1024;

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class ReshardTest : public ::testing::Test {
 protected:
  ReshardTest() : optimizer_(make()) {
    testing::start(optimizer_, runtime_.rank());
    testing::train_steps(optimizer_, 2);
    saved_ = Checkpoints(runtime_, directory_.path() / "saved").save(optimizer_, "text");
  }
  ShardedOptimizer make() {
    return {runtime_,
            testing::awkward_parameters(bf16),
            testing::test_rule,
            {.bucket_elements = bucket_elements}};
  }
  /// On rank 0; the others wait.
  void on_root(const std::function<void()>& work) {
    if (runtime_.rank() == 0) work();
    MPI_Barrier(MPI_COMM_WORLD);
  }

  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  testing::SharedDirectory directory_;
  ShardedOptimizer optimizer_;
  fs::path saved_;
};

TEST_F(ReshardTest, AnyNumberOfRanksAndBackIsTheSameBytes) {
  for (const int ranks : {1, 2, 3, 5, 8, 300}) {
    for (const int ranks_per_file : {1, 2}) {
      if (ranks_per_file > ranks) continue;
      SCOPED_TRACE(::testing::Message() << ranks << " ranks, " << ranks_per_file << " a file");
      const std::string name = std::to_string(ranks) + "-" + std::to_string(ranks_per_file);
      const fs::path there = directory_.path() / name;
      const fs::path back = directory_.path() / (name + "-back");
      on_root([&] {
        const CheckpointInfo info = checkpoint::reshard_checkpoint(
            saved_, there,
            {.ranks = ranks, .ranks_per_file = ranks_per_file, .bucket_elements = bucket_elements});
        EXPECT_EQ(std::ssize(info.files), (ranks + ranks_per_file - 1) / ranks_per_file);
        EXPECT_TRUE(verify_checkpoint(there).is_good());
        checkpoint::reshard_checkpoint(
            there, back, {.ranks = runtime_.size(), .bucket_elements = bucket_elements});
        for (const CheckpointFile& file : inspect_checkpoint(saved_).files) {
          EXPECT_TRUE(bytes_of(back / saved_.filename() / file.name) ==
                      bytes_of(saved_ / file.name));
        }
      });
      auto loaded = make();
      Checkpoints checkpoints(runtime_, there);
      EXPECT_EQ(checkpoints.resume(loaded), 2);
      EXPECT_EQ(checkpoints.trainer_state(), "text");
      EXPECT_EQ(testing::states_of_shard(loaded), testing::states_of_shard(optimizer_));
    }
  }
}

/// What ranks that share a file write, it writes too.
TEST_F(ReshardTest, SharesFilesAsASaveDoes) {
  if (runtime_.size() < 2) GTEST_SKIP() << "needs 2 ranks";
  const fs::path shared =
      Checkpoints(runtime_, directory_.path() / "shared", {.ranks_per_file = 2}).save(optimizer_);
  on_root([&] {
    const fs::path again = directory_.path() / "again";
    const CheckpointInfo info = checkpoint::reshard_checkpoint(
        saved_, again,
        {.ranks = runtime_.size(), .ranks_per_file = 2, .bucket_elements = bucket_elements});
    EXPECT_EQ(info.files.size(), inspect_checkpoint(shared).files.size());
    for (const CheckpointFile& file : info.files)
      EXPECT_TRUE(bytes_of(again / saved_.filename() / file.name) == bytes_of(shared / file.name));
  });
}

TEST_F(ReshardTest, RefusesWhatItCannotDo) {
  on_root([&] {
    const fs::path to = directory_.path() / "to";
    EXPECT_THROW(checkpoint::reshard_checkpoint(saved_, to, {.ranks = 0}), ConfigError);
    EXPECT_THROW(checkpoint::reshard_checkpoint(saved_, to, {.ranks = 2, .ranks_per_file = 3}),
                 ConfigError);
    EXPECT_THROW(checkpoint::reshard_checkpoint(saved_, to, {.ranks = 2, .bucket_elements = 100}),
                 ConfigError);
    // The one that is there stays as it is.
    EXPECT_THROW(checkpoint::reshard_checkpoint(saved_, saved_.parent_path(), {.ranks = 2}),
                 ConfigError);
    EXPECT_TRUE(verify_checkpoint(saved_).is_good());
    // A damaged one is not made good.
    const fs::path file = saved_ / inspect_checkpoint(saved_).files.back().name;
    std::string bytes = bytes_of(file);
    bytes[bytes.size() - 1] = static_cast<char>(bytes[bytes.size() - 1] ^ 1);
    std::ofstream(file, std::ios::binary) << bytes;
    EXPECT_THROW(checkpoint::reshard_checkpoint(saved_, to, {.ranks = 2}), CheckpointError);
    EXPECT_FALSE(fs::exists(to / saved_.filename()));
  });
}

}  // namespace
}  // namespace shardmix
