#include "shardmix/checkpoints.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <tuple>

#include "checkpoint/manifest.hpp"
#include "checkpoint/run_directory.hpp"
#include "checkpoint/support.hpp"
#include "shardmix/error.hpp"
#include "support/states.hpp"

namespace shardmix {
namespace {

using testing::SharedDirectory;
using testing::snapshot;
using testing::states_of_shard;
using testing::test_rule;
using testing::train_steps;

/// A way to keep weights and state.
struct Precision {
  DType dtype = fp32;
  Master master = Master::remainder;
  StateFormat state = StateFormat::full;

  [[nodiscard]] OptimizerOptions options(std::int64_t bucket_elements = 1024) const {
    return {.master = master, .state = state, .seed = 5, .bucket_elements = bucket_elements};
  }
  [[nodiscard]] std::string name() const {
    return std::string(name_of(dtype)) + "-" + std::to_string(static_cast<int>(master)) + "-" +
           std::to_string(static_cast<int>(state));
  }
};

constexpr Precision bf16_remainder{.dtype = bf16};
constexpr Precision compact{.state = StateFormat::compact};
constexpr Precision least{.dtype = bf16, .master = Master::none, .state = StateFormat::compact};

/// While it lives this process can't write files beyond so many bytes.
class SmallFiles {
 public:
  explicit SmallFiles(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &usual_);
    const rlimit small{.rlim_cur = bytes, .rlim_max = usual_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallFiles() {
    setrlimit(RLIMIT_FSIZE, &usual_);
    (void)signal(SIGXFSZ, handler_);
  }
  SmallFiles(const SmallFiles&) = delete;
  SmallFiles& operator=(const SmallFiles&) = delete;

 private:
  rlimit usual_{};
  sighandler_t handler_ = signal(SIGXFSZ, SIG_IGN);
};

class CheckpointTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  SharedDirectory directory_;

  ShardedOptimizer make(DType dtype = fp32, const Rule& rule = test_rule,
                        const OptimizerOptions& options = {.bucket_elements = 1024}) {
    return {runtime_, testing::awkward_parameters(dtype), rule, options};
  }
};

TEST_F(CheckpointTest, ResumedTrainingIsBitEqual) {
  for (const DType dtype : all_dtypes) {
    for (const Master master : {Master::remainder, Master::full, Master::none}) {
      for (const StateFormat state : {StateFormat::full, StateFormat::compact}) {
        const Precision precision{.dtype = dtype, .master = master, .state = state};
        if (dtype == fp32 && master != Master::remainder) continue;  // has none of its own
        SCOPED_TRACE(precision.name());
        const auto run = directory_.path() / precision.name();
        auto whole = make(dtype, test_rule, precision.options());
        testing::start(whole, runtime_.rank());
        train_steps(whole, 5);
        Checkpoints(runtime_, run).save(whole, "my state");

        auto resumed = make(dtype, test_rule, precision.options());
        Checkpoints checkpoints(runtime_, run);
        EXPECT_EQ(checkpoints.resume(resumed), 5);
        EXPECT_EQ(checkpoints.trainer_state(), "my state");
        EXPECT_EQ(checkpoints.load_switch(), std::nullopt);
        EXPECT_EQ(states_of_shard(resumed), states_of_shard(whole));
        EXPECT_EQ(snapshot(resumed), snapshot(whole));
        for (ShardedOptimizer* o : {&whole, &resumed}) train_steps(*o, 5);
        EXPECT_EQ(snapshot(resumed), snapshot(whole));
        EXPECT_EQ(resumed.clocks(), whole.clocks());
      }
    }
  }
}

TEST_F(CheckpointTest, EveryRuleResumesInCompactState) {
  std::vector<Rule> rules = all_rules();
  rules.emplace_back(AdEMAMix{.beta1 = 0.0});
  for (const Rule& rule : rules) {
    SCOPED_TRACE(name_of(rule));
    const auto run = directory_.path() / std::to_string(&rule - rules.data());
    auto whole = make(bf16, rule, least.options());
    testing::start(whole, runtime_.rank());
    train_steps(whole, 4);
    Checkpoints(runtime_, run).save(whole);
    auto resumed = make(bf16, rule, least.options());
    EXPECT_EQ(Checkpoints(runtime_, run).resume(resumed), 4);
    for (ShardedOptimizer* o : {&whole, &resumed}) train_steps(*o, 4);
    EXPECT_EQ(snapshot(resumed), snapshot(whole));
    EXPECT_EQ(states_of_shard(resumed), states_of_shard(whole));
  }
}

/// The codes of a block that isn't full come back too, whatever its scale was.
TEST_F(CheckpointTest, ManySmallParametersKeepTheirCodes) {
  Parameters parameters;
  for (int i = 0; i < 300; ++i) parameters.add(std::to_string(i), {100 + i}, fp32);
  ShardedOptimizer saved(runtime_, parameters, test_rule, compact.options());
  testing::start(saved, runtime_.rank());
  testing::write_gradients(saved, 1, 0);
  for (int p = 0; p < 300; ++p) {
    const testing::OnHost host(saved, saved.gradient(std::to_string(p)));
    const auto gradient = host.view().as<float>();
    // So that largest values are anywhere in their octaves.
    for (float& g : gradient) g *= 1.0f + static_cast<float>(p) / 100.0f;
    gradient[7] = 0.0f;  // v has its smallest code there
  }
  saved.step();
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(saved);
  ShardedOptimizer loaded(runtime_, parameters, test_rule, compact.options());
  checkpoints.resume(loaded);
  EXPECT_EQ(states_of_shard(loaded), states_of_shard(saved));
}

TEST_F(CheckpointTest, FullStateLoadsAsCompactAndBack) {
  auto full = make(bf16);
  testing::start(full, runtime_.rank());
  train_steps(full, 5);
  Checkpoints(runtime_, directory_.path() / "full").save(full);

  auto loaded = make(bf16, test_rule, {.state = StateFormat::compact, .bucket_elements = 1024});
  EXPECT_EQ(Checkpoints(runtime_, directory_.path() / "full").resume(loaded), 5);
  EXPECT_EQ(snapshot(loaded), snapshot(full));
  const auto expected = states_of_shard(full);
  const auto found = states_of_shard(loaded);
  EXPECT_EQ(found.at("master"), expected.at("master"));
  // Half the distance of two codes near the value, and half of that at the block's largest for
  // those far below it, whose codes are evenly spaced.
  for (const auto& [name, relative, absolute] :
       {std::tuple{"m1", 0x1p-4, 0x1p-18}, {"m2", 0x1p-11, 0x1p-40}, {"v", 0x1p-4, 0x1p-30}}) {
    const std::vector<float>& values = expected.at(name);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double size = std::abs(static_cast<double>(values[i]));
      ASSERT_NEAR(found.at(name)[i], values[i], 1.001 * relative * size + absolute)
          << name << " " << i;
    }
  }
  train_steps(loaded, 1);
  Checkpoints(runtime_, directory_.path() / "compact").save(loaded);
  auto back = make(bf16);
  EXPECT_EQ(Checkpoints(runtime_, directory_.path() / "compact").resume(back), 6);
  EXPECT_EQ(states_of_shard(back), states_of_shard(loaded));
  EXPECT_EQ(snapshot(back), snapshot(loaded));
}

TEST_F(CheckpointTest, TheLossScaleGoesOn) {
  const OptimizerOptions dynamic{.loss_scaling = {.initial = 4.0, .growth_interval = 3}};
  auto saved = make(fp32, test_rule, dynamic);
  testing::start(saved, runtime_.rank());
  train_steps(saved, 5);
  EXPECT_EQ(saved.loss_scale(), 8.0);
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(saved);
  EXPECT_EQ(inspect_checkpoint(directory_.path()).loss_scale, 8.0);

  auto resumed = make(fp32, test_rule, dynamic);
  checkpoints.resume(resumed);
  EXPECT_EQ(resumed.loss_scale(), 8.0);
  train_steps(resumed, 1);  // the third since it grew
  EXPECT_EQ(resumed.loss_scale(), 16.0);

  auto constant = make(fp32, test_rule, {.loss_scaling = {.initial = 2.0}});
  checkpoints.resume(constant);
  EXPECT_EQ(constant.loss_scale(), 2.0);
  train_steps(constant, 1);
  checkpoints.save(constant);

  // What was constant says nothing about where a dynamic one should be.
  auto from_constant = make(fp32, test_rule, dynamic);
  EXPECT_EQ(checkpoints.resume(from_constant), 6);
  EXPECT_EQ(from_constant.loss_scale(), 4.0);
}

TEST_F(CheckpointTest, NothingToResumeIsStepZero) {
  auto optimizer = make();
  EXPECT_EQ(Checkpoints(runtime_, directory_.path()).resume(optimizer), 0);
  EXPECT_EQ(Checkpoints(runtime_, directory_.path() / "missing").resume(optimizer), 0);
  EXPECT_THROW(optimizer.step(), ConfigError);
}

/// Saves on the first `saving` ranks and loads on the first `loading`, in groups of their own.
void expect_reshards(int saving, int loading, const std::filesystem::path& run,
                     const Precision& precision) {
  const DType dtype = precision.dtype;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const auto on_group = [&](int size, const auto& work) {
    MPI_Comm group = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, rank < size ? 0 : 1, rank, &group);
    if (rank < size) {
      Runtime runtime = adopt(group, testing::test_options(1));
      ShardedOptimizer optimizer(runtime, testing::awkward_parameters(dtype), test_rule,
                                 precision.options());
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
                           precision.options(512));
    EXPECT_EQ(Checkpoints(runtime, run / "again").resume(other), 6);
    // A third of three equal gradients isn't exact; the other world sizes give the same bits.
    if (saving != 3 && loading != 3) {
      EXPECT_EQ(snapshot(other), snapshot(optimizer));
    }
  });
}

TEST_F(CheckpointTest, LoadsOnAnyNumberOfRanks) {
  for (const Precision& precision : {Precision{}, bf16_remainder, compact, least}) {
    for (int saving = 1; saving <= runtime_.size(); ++saving) {
      for (int loading = 1; loading <= runtime_.size(); ++loading) {
        const auto name =
            std::to_string(saving) + "-" + std::to_string(loading) + "-" + precision.name();
        SCOPED_TRACE(name);
        expect_reshards(saving, loading, directory_.path() / name, precision);
      }
    }
  }
}

TEST_F(CheckpointTest, AnAdamWCheckpointSwitchesToAdEMAMix) {
  for (const StateFormat state : {StateFormat::full, StateFormat::compact}) {
    const OptimizerOptions options{.state = state};
    const auto run = directory_.path() / std::to_string(static_cast<int>(state));
    auto adamw = make(bf16, AdamW{.lr = 1e-2}, options);
    testing::start(adamw, runtime_.rank());
    train_steps(adamw, 4);
    Checkpoints checkpoints(runtime_, run);
    checkpoints.save(adamw);

    auto loaded = make(bf16, test_rule, options);
    testing::start(loaded, runtime_.rank());
    train_steps(loaded, 2);  // an m2 that must not survive
    EXPECT_EQ(checkpoints.load(run, loaded), 4);
    EXPECT_EQ(checkpoints.load_switch(), (SwitchReport{.from = "adamw",
                                                       .to = "ademamix",
                                                       .step = 4,
                                                       .kept = {"master", "m1", "v"},
                                                       .started = {"m2"}}));
    EXPECT_EQ(loaded.clocks(), (Clocks{.step = 4, .updates = 4, .slow_step = 0}));

    adamw.switch_rule(test_rule);
    train_steps(adamw, 3);
    train_steps(loaded, 3);
    EXPECT_EQ(snapshot(loaded), snapshot(adamw));
  }
}

/// One's m2 is an average, the other's a sum.
TEST_F(CheckpointTest, M2OfAnotherKindIsNotLoaded) {
  auto ademamix = make();
  testing::start(ademamix, runtime_.rank());
  train_steps(ademamix, 4);
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(ademamix);
  const SimplifiedAdEMAMix simplified{.lr = 1e-3};
  auto loaded = make(fp32, simplified);
  EXPECT_EQ(checkpoints.resume(loaded), 4);
  EXPECT_EQ(checkpoints.load_switch(), (SwitchReport{.from = "ademamix",
                                                     .to = "simplified-ademamix",
                                                     .step = 4,
                                                     .kept = {"master", "v"},
                                                     .started = {"m2"},
                                                     .dropped = {"m1", "m2"}}));
  EXPECT_EQ(loaded.clocks(), (Clocks{.step = 4, .updates = 4, .slow_step = 0}));
  ademamix.switch_rule(simplified);
  for (ShardedOptimizer* o : {&ademamix, &loaded}) train_steps(*o, 3);
  EXPECT_EQ(snapshot(loaded), snapshot(ademamix));
  EXPECT_EQ(states_of_shard(loaded), states_of_shard(ademamix));
}

TEST_F(CheckpointTest, ALoadReportsTheSwitchThatSwitchRuleWouldReport) {
  struct Case {
    Rule from;
    Rule to;
    SwitchOptions options = {};
  };
  const AdEMAMix without_m1{.beta1 = 0.0};
  for (const Case& c : {Case{AdamW{}, test_rule}, Case{AdamW{}, test_rule, {M2Start::from_m1}},
                        Case{test_rule, AdamW{}}, Case{test_rule, without_m1},
                        Case{test_rule, Lion{}}, Case{AdamW{}, without_m1}}) {
    SharedDirectory directory;
    auto switched = make(fp32, c.from);
    testing::start(switched, runtime_.rank());
    train_steps(switched, 4);
    Checkpoints checkpoints(runtime_, directory.path());
    checkpoints.save(switched);
    auto loaded = make(fp32, c.to);
    checkpoints.resume(loaded, c.options);
    EXPECT_EQ(checkpoints.load_switch(), switched.switch_rule(c.to, c.options));
    EXPECT_EQ(loaded.clocks(), switched.clocks());
    EXPECT_EQ(states_of_shard(loaded), states_of_shard(switched));
  }
}

TEST_F(CheckpointTest, M2ThatCanNotStartFromM1LeavesTheOptimizerAsItWas) {
  auto adamw = make(fp32, AdamW{});
  testing::start(adamw, runtime_.rank());
  train_steps(adamw, 2);
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(adamw);
  auto sum = make(fp32, SimplifiedAdEMAMix{});
  testing::start(sum, runtime_.rank());
  train_steps(sum, 3);
  const auto states = states_of_shard(sum);
  EXPECT_THROW(checkpoints.resume(sum, {.m2 = M2Start::from_m1}), ConfigError);
  EXPECT_EQ(states_of_shard(sum), states);
  EXPECT_EQ(checkpoints.resume(sum), 2);
}

TEST_F(CheckpointTest, MissingMomentsAreAnErrorAndNeverZeros) {
  auto without_m1 = make(fp32, AdEMAMix{.beta1 = 0.0});
  testing::start(without_m1, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(without_m1);
  auto needs_m1 = make();
  EXPECT_THROW(checkpoints.resume(needs_m1), CheckpointError);
  auto lion = make(fp32, Lion{});
  testing::start(lion, runtime_.rank());
  checkpoints.save(lion);
  auto needs_v = make(fp32, AdamW{});
  EXPECT_THROW(checkpoints.resume(needs_v), CheckpointError);
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

TEST_F(CheckpointTest, KeepsSomeForGood) {
  auto optimizer = make();
  testing::start(optimizer, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path(), {.keep_last = 1, .keep_every = 2});
  for (int i = 0; i < 5; ++i) {
    train_steps(optimizer, 1);
    checkpoints.save(optimizer);
  }
  std::vector<std::string> left;
  for (const auto& path : checkpoint::list_checkpoints(directory_.path()))
    left.push_back(path.filename());
  EXPECT_EQ(left, (std::vector<std::string>{"step_000000005", "step_000000004", "step_000000002"}));
}

TEST_F(CheckpointTest, ASaveInTheBackgroundHoldsTheStateOfItsBeginning) {
  for (const Precision& precision : {Precision{}, bf16_remainder, compact}) {
    SCOPED_TRACE(precision.name());
    auto optimizer = make(precision.dtype, test_rule, precision.options());
    testing::start(optimizer, runtime_.rank());
    Checkpoints checkpoints(runtime_, directory_.path() / precision.name());
    EXPECT_EQ(checkpoints.finish(), std::nullopt);
    EXPECT_EQ(checkpoints.poll(), std::nullopt);
    train_steps(optimizer, 2);
    const auto states = states_of_shard(optimizer);
    const auto values = snapshot(optimizer);
    checkpoints.begin_save(optimizer, "then");
    std::optional<std::filesystem::path> committed;
    for (int i = 0; i < 10'000 && !committed; ++i) {
      train_steps(optimizer, 1);
      committed = checkpoints.poll();
    }
    ASSERT_TRUE(committed);
    EXPECT_EQ(committed->filename(), "step_000000002");
    EXPECT_EQ(checkpoints.poll(), std::nullopt);

    auto loaded = make(precision.dtype, test_rule, precision.options());
    EXPECT_EQ(checkpoints.resume(loaded), 2);
    EXPECT_EQ(checkpoints.trainer_state(), "then");
    EXPECT_EQ(states_of_shard(loaded), states);
    EXPECT_EQ(snapshot(loaded), values);

    checkpoints.begin_save(optimizer);
    train_steps(optimizer, 1);
    checkpoints.begin_save(optimizer);  // finishes the one before
    const auto last = checkpoints.finish();
    ASSERT_TRUE(last);
    EXPECT_EQ(checkpoint::list_checkpoints(directory_.path() / precision.name()).size(), 3u);
    EXPECT_EQ(checkpoints.resume(loaded), optimizer.clocks().step);
    EXPECT_EQ(states_of_shard(loaded), states_of_shard(optimizer));
  }
}

TEST_F(CheckpointTest, ASaveInTheBackgroundThatFailsOnOneRankIsNone) {
  auto optimizer = make();
  testing::start(optimizer, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path());
  checkpoints.save(optimizer);
  train_steps(optimizer, 1);
  const bool is_last = runtime_.rank() == runtime_.size() - 1;
  {
    std::optional<SmallFiles> small;
    if (is_last) small.emplace(16384);
    checkpoints.begin_save(optimizer);
    EXPECT_THROW((void)checkpoints.finish(), CheckpointError);
  }
  EXPECT_EQ(checkpoints.finish(), std::nullopt);
  train_steps(optimizer, 1);
  auto loaded = make();
  EXPECT_EQ(checkpoints.resume(loaded), 0);
  checkpoints.begin_save(optimizer);
  EXPECT_TRUE(checkpoints.finish());
  EXPECT_EQ(checkpoints.resume(loaded), 2);
}

/// One file of several ranks has what their own files have: byte for byte a checkpoint's export.
TEST_F(CheckpointTest, RanksShareFiles) {
  const int size = runtime_.size();
  for (const int ranks_per_file : {1, 2, 3, 100}) {
    SCOPED_TRACE(ranks_per_file);
    auto optimizer = make();
    testing::start(optimizer, runtime_.rank());
    train_steps(optimizer, 2);
    const auto states = states_of_shard(optimizer);
    const auto values = snapshot(optimizer);
    const auto path = directory_.path() / std::to_string(ranks_per_file);
    Checkpoints checkpoints(runtime_, path, {.ranks_per_file = ranks_per_file});
    checkpoints.save(optimizer, "text");
    const CheckpointInfo info = inspect_checkpoint(path);
    const int files = (size + ranks_per_file - 1) / ranks_per_file;
    EXPECT_EQ(std::ssize(info.files), files);
    EXPECT_EQ(std::ssize(info.memory), size);
    EXPECT_EQ(info.files.back().name, checkpoint::shard_name(files - 1, files));
    auto loaded = make();
    EXPECT_EQ(checkpoints.resume(loaded), 2);
    EXPECT_EQ(states_of_shard(loaded), states);
    EXPECT_EQ(snapshot(loaded), values);

    checkpoints.begin_save(optimizer);
    train_steps(optimizer, 1);
    EXPECT_TRUE(checkpoints.finish());
    EXPECT_EQ(checkpoints.resume(loaded), 2);
    EXPECT_EQ(states_of_shard(loaded), states);
  }
  for (const int impossible : {0, -1})
    EXPECT_THROW(Checkpoints(runtime_, directory_.path(), {.ranks_per_file = impossible}),
                 ConfigError);
}

TEST_F(CheckpointTest, ASharedFileThatCannotBeWrittenIsNoCheckpoint) {
  Parameters parameters;
  parameters.add("w", {1'500'001}, fp32);
  ShardedOptimizer optimizer(runtime_, parameters, test_rule);
  testing::start(optimizer, runtime_.rank());
  Checkpoints checkpoints(runtime_, directory_.path(), {.ranks_per_file = 2});
  checkpoints.save(optimizer);
  train_steps(optimizer, 1);
  for (int failing = 0; failing < runtime_.size(); failing += 2) {
    std::optional<SmallFiles> small;  // but large enough for the memory that ranks share
    if (runtime_.rank() == failing) small.emplace(6'000'000);
    try {
      checkpoints.save(optimizer);
      ADD_FAILURE() << "it should have failed";
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("shard-"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("too large"), std::string::npos) << error.what();
    }
    small.reset();
    ShardedOptimizer loaded(runtime_, parameters, test_rule);
    EXPECT_EQ(checkpoints.resume(loaded), 0);
    EXPECT_EQ(loaded.clocks(), Clocks{});
  }
  checkpoints.save(optimizer);
  ShardedOptimizer loaded(runtime_, parameters, test_rule);
  EXPECT_EQ(checkpoints.resume(loaded), 1);
  EXPECT_EQ(states_of_shard(loaded), states_of_shard(optimizer));
}

TEST_F(CheckpointTest, ASaveThatIsNotFinishedIsDropped) {
  auto optimizer = make();
  testing::start(optimizer, runtime_.rank());
  { Checkpoints(runtime_, directory_.path()).begin_save(optimizer); }
  auto loaded = make();
  EXPECT_EQ(Checkpoints(runtime_, directory_.path()).resume(loaded), 0);
  EXPECT_EQ(loaded.clocks(), Clocks{});
  Checkpoints(runtime_, directory_.path()).save(optimizer);  // removes what may be left of it
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

TEST_F(CheckpointTest, ARankMayHoldNothing) {
  Parameters parameters;
  parameters.add("small", {3}, fp32);
  parameters.add("frozen", {5}, fp32, {.trainable = false});
  ShardedOptimizer saved(runtime_, parameters, test_rule);
  testing::start(saved, runtime_.rank());
  train_steps(saved, 1);
  Checkpoints checkpoints(runtime_, directory_.path() / "a" / "run");
  checkpoints.save(saved);
  ShardedOptimizer loaded(runtime_, parameters, test_rule);
  EXPECT_EQ(checkpoints.resume(loaded), 1);
  EXPECT_EQ(snapshot(loaded), snapshot(saved));
  EXPECT_EQ(states_of_shard(loaded), states_of_shard(saved));
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
  EXPECT_THROW(Checkpoints(runtime_, blocked).save(optimizer), CheckpointError);
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
