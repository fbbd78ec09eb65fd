// Damaged checkpoints are refused with a sentence that names the file, or passed over for an older
// one.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <random>

#include "checkpoint/manifest.hpp"
#include "checkpoint/run_directory.hpp"
#include "checkpoint/support.hpp"
#include "checkpoint/view.hpp"
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

/// Bytes of a file, which rank 0 alone changes.
class Contents {
 public:
  explicit Contents(fs::path path) : path_(std::move(path)) {
    std::ifstream in(path_, std::ios::binary);
    good_.assign(std::istreambuf_iterator<char>(in), {});
  }
  [[nodiscard]] const std::string& good() const noexcept { return good_; }
  void put(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }

 private:
  fs::path path_;
  std::string good_;
};

TEST_F(DamageTest, AnyFlippedBitAndAnyLengthIsRefused) {
  std::mt19937_64 random(7);  // the same on all ranks
  const int places = runtime_.size() == 1 ? 1000 : 150;
  ShardedOptimizer loaded(runtime_, testing::awkward_parameters(), testing::test_rule);
  for (const std::string& name : {shard_.filename().string(), std::string("manifest.json")}) {
    const Contents file(newest_ / name);
    int accepted = 0;
    int nameless = 0;
    const auto try_with = [&](const std::string& bytes) {
      damage([&] { file.put(bytes); });
      try {
        checkpoints_.load(newest_, loaded);
        ++accepted;
      } catch (const CheckpointError& error) {
        const std::string said = error.what();
        nameless += said.find(name) == std::string::npos &&
                            said.find("manifest of '" + newest_.string()) == std::string::npos
                        ? 1
                        : 0;
      }
    };
    for (int i = 0; i < places; ++i) {
      std::string bad = file.good();
      bad[random() % bad.size()] ^= static_cast<char>(1U << random() % 8);
      try_with(bad);
      try_with(file.good().substr(0, random() % file.good().size()));
    }
    try_with(file.good().substr(0, file.good().size() - 1));
    try_with(file.good() + '\0');
    try_with(file.good() + file.good());
    EXPECT_EQ(accepted, 0) << name;
    EXPECT_EQ(nameless, 0) << name;
    damage([&] { file.put(file.good()); });
    EXPECT_EQ(checkpoints_.load(newest_, loaded), 2) << name;
  }
}

TEST_F(DamageTest, AFlippedBit) {
  damage([&] {
    const Contents file(shard_);
    std::string bad = file.good();
    bad[bad.size() / 2] ^= 1;
    file.put(bad);
  });
  expect_refused(shard_.filename().string() + "' has the checksum");
}

TEST_F(DamageTest, FilesInEachOthersPlace) {
  if (runtime_.size() == 1) GTEST_SKIP() << "has one file";
  const fs::path first = newest_ / checkpoint::shard_name(0, runtime_.size());
  damage([&] {
    fs::rename(first, first.string() + ".tmp");
    fs::rename(shard_, first);
    fs::rename(first.string() + ".tmp", shard_);
  });
  expect_refused(first.filename().string());
}

TEST_F(DamageTest, AFileOfAnotherCheckpoint) {
  damage([&] {
    fs::copy_file(directory_.path() / checkpoint::checkpoint_name(1) / shard_.filename(), shard_,
                  fs::copy_options::overwrite_existing);
  });
  expect_refused(shard_.filename().string());
}

TEST_F(DamageTest, WhatIsNoPlainFile) {
  damage([&] {
    fs::rename(shard_, directory_.path() / "elsewhere");
    fs::create_symlink(directory_.path() / "elsewhere", shard_);
  });
  expect_refused(shard_.filename().string());
  damage([&] {
    fs::remove(shard_);
    mkfifo(shard_.c_str(), 0600);
  });
  expect_refused(shard_.filename().string());
}

TEST_F(DamageTest, IsFoundByVerifying) {
  std::int64_t done = 0;
  std::int64_t total = 0;
  const auto progress = [&](std::int64_t so_far, std::int64_t all) {
    done = so_far;
    total = all;
  };
  const CheckpointVerdict good = verify_checkpoint(directory_.path(), progress);
  EXPECT_TRUE(good.is_good());
  EXPECT_EQ(good.directory, newest_);
  EXPECT_EQ(std::ssize(good.files), runtime_.size() + 1) << "a file a rank, and the view";
  EXPECT_GT(total, 0);
  EXPECT_EQ(done, total);
  damage([&] { fs::resize_file(shard_, fs::file_size(shard_) - 1); });
  const CheckpointVerdict bad = verify_checkpoint(newest_);
  EXPECT_FALSE(bad.is_good());
  const auto last = static_cast<std::size_t>(runtime_.size() - 1);
  EXPECT_NE(bad.files[last].damage.find(shard_.filename().string()), std::string::npos);
  EXPECT_EQ(bad.files.back().damage, "") << "the view is as it was";
  for (int r = 0; r + 1 < runtime_.size(); ++r)
    EXPECT_EQ(bad.files[static_cast<std::size_t>(r)].damage, "");
  damage([&] { fs::remove_all(newest_); });
  EXPECT_TRUE(verify_checkpoint(directory_.path()).is_good());
}

TEST_F(DamageTest, OfTheViewIsFoundByVerifyingAndNoMatterToALoad) {
  if (runtime_.rank() == 0) {
    const Contents file(newest_ / checkpoint::view_name);
    std::mt19937_64 random(7);
    const auto expect_damage = [&](const std::string& bytes) {
      file.put(bytes);
      const CheckpointVerdict verdict = verify_checkpoint(newest_);
      ASSERT_FALSE(verdict.is_good());
      ASSERT_NE(verdict.files.back().damage.find("view.h5'"), std::string::npos);
    };
    for (int i = 0; i < 1000; ++i) {
      std::string bad = file.good();
      bad[random() % bad.size()] ^= static_cast<char>(1U << random() % 8);
      expect_damage(bad);
    }
    expect_damage("");
    expect_damage(file.good().substr(1));
    expect_damage(file.good() + '\0');
  }
  ShardedOptimizer loaded(runtime_, testing::awkward_parameters(), testing::test_rule);
  MPI_Barrier(MPI_COMM_WORLD);
  EXPECT_EQ(checkpoints_.load(newest_, loaded), 2);
  damage([&] { fs::remove(newest_ / checkpoint::view_name); });
  EXPECT_NE(verify_checkpoint(newest_).files.back().damage.find("view.h5'"), std::string::npos);
  EXPECT_EQ(checkpoints_.resume(loaded), 2);
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
  EXPECT_NE(verify_checkpoint(newest_).damage.find("once"), std::string::npos);
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
