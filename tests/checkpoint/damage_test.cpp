// Damaged checkpoints are refused with a sentence that names the file, or passed over for an older
// one.

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/manifest.hpp"
#include "checkpoint/support.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace {

namespace fs = std::filesystem;

class DamageTest : public ::testing::Test {
 protected:
  DamageTest() {
    testing::start(optimizer_, runtime_.rank());
    testing::train_steps(optimizer_, 1);
    checkpoints_.save(optimizer_);
    testing::train_steps(optimizer_, 1);
    newest_ = checkpoints_.save(optimizer_);
    shard_ = newest_ / checkpoint::shard_name(runtime_.size() - 1, runtime_.size());
  }

  /// Runs on rank 0, which all others wait for.
  template <class Damage>
  void damage(const Damage& work) {
    MPI_Barrier(MPI_COMM_WORLD);
    if (runtime_.rank() == 0) work();
    MPI_Barrier(MPI_COMM_WORLD);
  }

  void expect_refused(const std::string& part) {
    ShardedOptimizer loaded(runtime_, testing::awkward_parameters(), testing::test_rule);
    try {
      checkpoints_.load(newest_, loaded);
      ADD_FAILURE() << "accepted; expected: " << part;
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    EXPECT_EQ(checkpoints_.resume(loaded), 1) << "the older one is still good";
    EXPECT_EQ(loaded.clocks().step, 1);
  }

  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  testing::SharedDirectory directory_;
  ShardedOptimizer optimizer_{runtime_, testing::awkward_parameters(), testing::test_rule};
  Checkpoints checkpoints_{runtime_, directory_.path()};
  fs::path newest_;
  fs::path shard_;
};

TEST_F(DamageTest, AFlippedBit) {
  damage([&] {
    std::fstream file(shard_, std::ios::in | std::ios::out | std::ios::binary);
    const auto where = static_cast<std::streamoff>(fs::file_size(shard_) / 2);
    file.seekg(where);
    const int byte = file.get();
    file.seekp(where);
    file.put(static_cast<char>(byte ^ 1));
  });
  expect_refused(shard_.filename().string() + "' has the checksum");
}

TEST_F(DamageTest, AFileCutShort) {
  damage([&] { fs::resize_file(shard_, fs::file_size(shard_) - 1); });
  expect_refused(shard_.filename().string() + "' has");
}

TEST_F(DamageTest, AMissingFile) {
  damage([&] { fs::remove(shard_); });
  expect_refused(shard_.filename().string());
}

TEST_F(DamageTest, AManifestThatIsNoJson) {
  damage([&] {
    fs::resize_file(newest_ / "manifest.json", fs::file_size(newest_ / "manifest.json") / 2);
  });
  expect_refused("manifest");
}

TEST_F(DamageTest, AFileThatTheManifestForgot) {
  damage([&] {
    CheckpointInfo info = inspect_checkpoint(newest_);
    info.files.pop_back();
    std::ofstream(newest_ / "manifest.json") << checkpoint::manifest_text(info);
  });
  expect_refused("once");
}

TEST_F(DamageTest, AnUnfinishedSaveIsNotThere) {
  damage([&] { fs::remove(newest_ / "manifest.json"); });
  ShardedOptimizer loaded(runtime_, testing::awkward_parameters(), testing::test_rule);
  EXPECT_EQ(checkpoints_.resume(loaded), 1);
}

TEST_F(DamageTest, WhenNoneIsLeftItIsAnErrorAndNotStepZero) {
  damage([&] {
    for (const fs::path& path : checkpoint::list_checkpoints(directory_.path())) {
      fs::resize_file(path / checkpoint::shard_name(0, runtime_.size()), 10);
    }
  });
  ShardedOptimizer loaded(runtime_, testing::awkward_parameters(), testing::test_rule);
  EXPECT_THROW(checkpoints_.resume(loaded), CheckpointError);
}

}  // namespace
}  // namespace shardmix
