#include "shardmix/checkpoints.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/manifest.hpp"
#include "checkpoint/support.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace {

using testing::SharedDirectory;
using testing::snapshot;
using testing::test_rule;
using testing::train_steps;

class CheckpointTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, {.threads = 1});
  SharedDirectory directory_;

  ShardedOptimizer make(DType dtype = fp32, const Rule& rule = test_rule,
                        const OptimizerOptions& options = {.bucket_elements = 1024}) {
    return {runtime_, testing::awkward_parameters(dtype), rule, options};
  }
};

TEST_F(CheckpointTest, ResumedTrainingIsBitEqual) {
  for (const DType dtype : {fp32, bf16}) {
    const auto run = directory_.path() / std::string(name_of(dtype));
    auto whole = make(dtype);
    testing::start(whole, runtime_.rank());
    train_steps(whole, 5);
    Checkpoints(runtime_, run).save(whole, "my state");
    train_steps(whole, 5);

    auto resumed = make(dtype);
    Checkpoints checkpoints(runtime_, run);
    EXPECT_EQ(checkpoints.resume(resumed), 5);
    EXPECT_EQ(checkpoints.trainer_state(), "my state");
    EXPECT_EQ(checkpoints.load_note(), "");
    train_steps(resumed, 5);
    EXPECT_EQ(snapshot(resumed), snapshot(whole));
    EXPECT_EQ(resumed.clocks(), whole.clocks());
  }
}

TEST_F(CheckpointTest, NothingToResumeIsStepZero) {
  auto optimizer = make();
  EXPECT_EQ(Checkpoints(runtime_, directory_.path()).resume(optimizer), 0);
  EXPECT_EQ(Checkpoints(runtime_, directory_.path() / "missing").resume(optimizer), 0);
  EXPECT_THROW(optimizer.step(), ConfigError);
}

/// Saves on the first `saving` ranks and loads on the first `loading`, in groups of their own.
void expect_reshards(int saving, int loading, const std::filesystem::path& run, DType dtype) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const auto on_group = [&](int size, const auto& work) {
    MPI_Comm group = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, rank < size ? 0 : 1, rank, &group);
    if (rank < size) {
      Runtime runtime = adopt(group, {.threads = 1});
      ShardedOptimizer optimizer(runtime, testing::awkward_parameters(dtype), test_rule,
                                 {.bucket_elements = 1024});
      work(runtime, optimizer);
    }
    MPI_Comm_free(&group);
    MPI_Barrier(MPI_COMM_WORLD);
  };
  // Frozen and trained values of every rank, as the saving group had them.
  std::map<std::string, std::vector<double>> saved;
  on_group(saving, [&](Runtime& runtime, ShardedOptimizer& optimizer) {
    testing::start(optimizer, runtime.rank());
    train_steps(optimizer, 3);
    Checkpoints(runtime, run).save(optimizer);
    saved = snapshot(optimizer);
  });
  on_group(loading, [&](Runtime& runtime, ShardedOptimizer& optimizer) {
    EXPECT_EQ(Checkpoints(runtime, run).resume(optimizer), 3);
    if (!saved.empty()) {
      EXPECT_EQ(snapshot(optimizer), saved);
    }
    train_steps(optimizer, 3);
    // Saved again, it loads again.
    Checkpoints(runtime, run / "again").save(optimizer);
  });
  on_group(saving, [&](Runtime& runtime, ShardedOptimizer& optimizer) {
    testing::start(optimizer, runtime.rank());
    train_steps(optimizer, 6);
    ShardedOptimizer other(runtime, testing::awkward_parameters(dtype), test_rule,
                           {.bucket_elements = 512});
    EXPECT_EQ(Checkpoints(runtime, run / "again").resume(other), 6);
    // A third of three equal gradients isn't exact; the other world sizes give the same bits.
    if (saving != 3 && loading != 3) {
      EXPECT_EQ(snapshot(other), snapshot(optimizer));
    }
  });
}

TEST_F(CheckpointTest, LoadsOnAnyNumberOfRanks) {
  for (const DType dtype : {fp32, bf16}) {
    for (int saving = 1; saving <= runtime_.size(); ++saving) {
      for (int loading = 1; loading <= runtime_.size(); ++loading) {
        const auto name =
            std::to_string(saving) + "-" + std::to_string(loading) + std::string(name_of(dtype));
        SCOPED_TRACE(name);
        expect_reshards(saving, loading, directory_.path() / name, dtype);
      }
    }
  }
}

TEST_F(CheckpointTest, AnAdamWCheckpointSwitchesToAdEMAMix) {
  auto adamw = make(bf16, AdamW{.lr = 1e-2});
  testing::start(adamw, runtime_.rank());
  train_steps(adamw, 4);
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(adamw);

  auto loaded = make(bf16);
  testing::start(loaded, runtime_.rank());
  train_steps(loaded, 2);  // an m2 that must not survive
  EXPECT_EQ(checkpoints.load(directory_.path(), loaded), 4);
  EXPECT_NE(checkpoints.load_note().find("switched from adamw to ademamix at step 4"),
            std::string::npos);
  EXPECT_EQ(loaded.clocks(), (Clocks{.step = 4, .updates = 4, .slow_step = 0}));

  adamw.switch_rule(test_rule);
  train_steps(adamw, 3);
  train_steps(loaded, 3);
  EXPECT_EQ(snapshot(loaded), snapshot(adamw));
}

TEST_F(CheckpointTest, MissingMomentsAreAnErrorAndNeverZeros) {
  auto without_m1 = make(fp32, AdEMAMix{.beta1 = 0.0});
  testing::start(without_m1, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(without_m1);
  auto needs_m1 = make();
  EXPECT_THROW(checkpoints.resume(needs_m1), CheckpointError);
}

TEST_F(CheckpointTest, KeepsTheLastOnesAndALink) {
  auto optimizer = make();
  testing::start(optimizer, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path(), {.keep_last = 2});
  for (int i = 0; i < 4; ++i) {
    train_steps(optimizer, 1);
    checkpoints.save(optimizer);
  }
  const auto left = checkpoint::list_checkpoints(directory_.path());
  ASSERT_EQ(left.size(), 2u);
  EXPECT_EQ(left[0].filename(), "step_000000004");
  EXPECT_EQ(left[1].filename(), "step_000000003");
  EXPECT_EQ(std::filesystem::read_symlink(directory_.path() / "latest"), "step_000000004");
  for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
  }
}

TEST_F(CheckpointTest, SavingAStepAgainReplacesIt) {
  auto optimizer = make();
  testing::start(optimizer, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(optimizer, "first");
  checkpoints.save(optimizer, "second");
  auto loaded = make();
  checkpoints.resume(loaded);
  EXPECT_EQ(checkpoints.trainer_state(), "second");
}

TEST_F(CheckpointTest, RefusesAnotherModel) {
  auto optimizer = make();
  testing::start(optimizer, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(optimizer);

  const auto expect_refused = [&](const Parameters& parameters, const std::string& part) {
    ShardedOptimizer other(runtime_, parameters, test_rule);
    try {
      checkpoints.resume(other);
      ADD_FAILURE() << "accepted; expected: " << part;
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  Parameters more = testing::awkward_parameters();
  more.add("extra", {3}, fp32);
  expect_refused(more, "lacks the parameter 'extra'");
  Parameters fewer;
  fewer.add("scalar", {}, fp32);
  expect_refused(fewer, "which this one hasn't");
  Parameters shape;
  for (const Parameter& p : testing::awkward_parameters()) {
    shape.add(p.name, p.name == "matrix" ? std::vector<std::int64_t>{65, 33} : p.shape, p.dtype,
              p.group);
  }
  expect_refused(shape, "'matrix' has the shape (33, 65) there and (65, 33) here");
}

TEST_F(CheckpointTest, AFailedSaveLeavesTheOldOneAndTheRun) {
  auto optimizer = make();
  testing::start(optimizer, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(optimizer);
  train_steps(optimizer, 1);
  const auto before = snapshot(optimizer);
  // A file where the run's directory should be.
  const auto blocked = directory_.path() / "blocked";
  if (runtime_.rank() == 0) std::ofstream(blocked) << "not a directory";
  MPI_Barrier(MPI_COMM_WORLD);
  EXPECT_ANY_THROW(Checkpoints(runtime_, blocked).save(optimizer));
  EXPECT_EQ(snapshot(optimizer), before);
  train_steps(optimizer, 1);
  auto loaded = make();
  EXPECT_EQ(checkpoints.resume(loaded), 0);
  EXPECT_EQ(loaded.clocks(), Clocks{});
}

TEST_F(CheckpointTest, InspectTellsWhatIsThere) {
  auto optimizer = make(bf16);
  testing::start(optimizer, runtime_.rank());
  train_steps(optimizer, 2);
  Checkpoints(runtime_, directory_.path()).save(optimizer, "state");
  const CheckpointInfo info = inspect_checkpoint(directory_.path());
  EXPECT_EQ(info.directory, directory_.path() / "step_000000002");
  EXPECT_EQ(info.rule, "ademamix");
  EXPECT_EQ(info.clocks, optimizer.clocks());
  EXPECT_EQ(info.world_size, runtime_.size());
  EXPECT_EQ(info.states, (std::vector<std::string>{"master", "m1", "m2", "v"}));
  EXPECT_EQ(info.parameters.size(), optimizer.parameters().size());
  EXPECT_EQ(info.trainer_state, "state");
  ASSERT_EQ(std::ssize(info.memory), runtime_.size());
  EXPECT_EQ(info.memory[static_cast<std::size_t>(runtime_.rank())], optimizer.memory());
  EXPECT_THROW((void)inspect_checkpoint(directory_.path() / "missing"), CheckpointError);
}

}  // namespace
}  // namespace shardmix
