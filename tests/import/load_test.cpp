#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "checkpoint/importer.hpp"
#include "checkpoint/support.hpp"
#include "import/sources.hpp"
#include "shardmix/error.hpp"
#include "support/states.hpp"

namespace shardmix {
namespace {

namespace fs = std::filesystem;
using testing::NamedTensor;

/// The value of element i of a state of parameter number p: bf16 holds all of them exactly.
float value(std::size_t p, const std::string& state, std::int64_t i) {
  const double scale = state == "v" ? 0.25 : state == "m1" ? -0.5 : state == "m2" ? 2.0 : 1.0;
  return static_cast<float>(scale *
                            static_cast<double>((i * 7 + static_cast<std::int64_t>(p)) % 128));
}

NamedTensor made(std::size_t p, const Parameter& parameter, const std::string& state,
                 const std::string& name, bool narrow) {
  NamedTensor tensor{name, narrow ? "BF16" : "F32", parameter.shape, {}};
  for (std::int64_t i = 0; i < parameter.elements(); ++i) {
    const float element = value(p, state, i);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &element, 4);
    tensor.bytes += narrow
                        ? testing::bytes_of<std::uint16_t>({static_cast<std::uint16_t>(bits >> 16)})
                        : testing::bytes_of<float>({element});
  }
  return tensor;
}

class ImportLoad : public ::testing::Test {
 protected:
  /// Writes the model's tensors into two files, imports them and says where.
  fs::path import(const std::vector<std::string>& states, const checkpoint::Cut& cut) {
    const fs::path run = directory_.path() / "run";
    if (runtime_.rank() == 0) {
      std::vector<std::vector<NamedTensor>> files(2);
      for (std::size_t p = 0; p < parameters_.size(); ++p) {
        const Parameter& parameter = parameters_[p];
        const bool narrow = parameter.dtype == bf16;
        files[p % 2].push_back(made(p, parameter, "master", parameter.name, narrow));
        if (!parameter.group.trainable) continue;
        for (const std::string& s : states)  // the moments lie in the other file, one in bf16
          files[(p + 1) % 2].push_back(
              made(p, parameter, s, parameter.name + '.' + s, s == "m1" && narrow));
      }
      std::vector<fs::path> paths;
      for (std::size_t f = 0; f < files.size(); ++f) {
        paths.push_back(directory_.path() / (std::to_string(f) + ".safetensors"));
        testing::write_tensors(paths.back(), files[f]);
      }
      checkpoint::ImportPlan plan = checkpoint::plan_import(
          checkpoint::match_names(paths, checkpoint::naming_from("")),
          {.step = 5, .without_moments = checkpoint::WithoutMoments::frozen});
      checkpoint::check_values(plan);
      checkpoint::write_import(plan, run, cut);
      EXPECT_TRUE(verify_checkpoint(run).is_good());
    }
    MPI_Barrier(MPI_COMM_WORLD);
    return run;
  }

  /// Loads it as a run does, and compares every element of all ranks.
  void expect_values(const fs::path& run, const Rule& rule,
                     const std::vector<std::string>& states) {
    ShardedOptimizer optimizer(runtime_, parameters_, rule, {.bucket_elements = 1024});
    Checkpoints checkpoints(runtime_, run);
    EXPECT_EQ(checkpoints.resume(optimizer), 5);
    EXPECT_EQ(optimizer.clocks().updates, 5);
    for (std::size_t p = 0; p < parameters_.size(); ++p) {
      const TensorView view = optimizer.parameter(parameters_[p].name);
      for (std::int64_t i = 0; i < view.elements; ++i)
        ASSERT_EQ(testing::value_of(view, i), value(p, "master", i)) << parameters_[p].name;
    }
    const auto shard = testing::states_of_shard(optimizer);
    const optimizer::ShardedState& state = optimizer.impl().state;
    for (const std::string& s : states) {
      std::size_t at = 0;
      for (const auto& slice : state.shard().slices) {
        for (const layout::Piece& piece : state.layout().pieces(slice.range)) {
          for (std::int64_t i = 0; i < piece.count; ++i, ++at)
            ASSERT_EQ(shard.at(s)[at], value(piece.parameter, s, piece.offset + i)) << s;
        }
      }
      EXPECT_EQ(at, shard.at(s).size());
    }
  }

  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  testing::SharedDirectory directory_;
  Parameters parameters_ = testing::awkward_parameters(bf16);
};

TEST_F(ImportLoad, AdamWGoesOnInTheNormalWay) {
  const fs::path run =
      import({"m1", "v"}, {.ranks = 3, .ranks_per_file = 2, .bucket_elements = 1024});
  expect_values(run, AdamW{}, {"m1", "v"});
  expect_values(run, AdEMAMix{}, {"m1", "v"});  // the switch
}

TEST_F(ImportLoad, AdEMAMixGoesOnInTheNormalWay) {
  expect_values(import({"m1", "m2", "v"}, {}), AdEMAMix{}, {"m1", "m2", "v"});
  EXPECT_EQ(inspect_checkpoint(directory_.path() / "run").clocks.slow_step, 5);
}

TEST_F(ImportLoad, RefusesValuesThatCannotBe) {
  if (runtime_.rank() != 0) return;
  const fs::path path = directory_.path() / "bad.safetensors";
  const auto refusal = [&](const std::string& state, float bad) {
    std::vector<NamedTensor> tensors;
    for (const std::string name : {"a", "a.m1", "a.v"}) {
      std::vector<float> values(300'000, 1.0F);  // more than one chunk
      if (name == state) values[270'000] = bad;
      tensors.push_back(testing::f32(name, {300'000}, values));
    }
    testing::write_tensors(path, tensors);
    auto plan = checkpoint::plan_import(
        checkpoint::match_names({path}, checkpoint::naming_from("")), {.step = 1});
    try {
      checkpoint::check_values(plan);
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refusal("", 0), "accepted");
  EXPECT_EQ(refusal("a.m1", -1), "accepted");
  EXPECT_EQ(refusal("a.v", 0), "accepted");
  EXPECT_NE(refusal("a.v", -1e-30F).find("element 270000 of the tensor 'a.v'"), std::string::npos);
  EXPECT_NE(refusal("a.v", INFINITY).find("is inf"), std::string::npos);
  EXPECT_NE(refusal("a.m1", NAN).find("is nan"), std::string::npos);
  EXPECT_NE(refusal("a", -INFINITY).find("is -inf"), std::string::npos);
}

TEST_F(ImportLoad, RefusesWhatIsThereAlready) {
  const fs::path run = import({"m1", "v"}, {});
  if (runtime_.rank() == 0) {
    const auto plan = checkpoint::plan_import(
        checkpoint::match_names(
            {directory_.path() / "0.safetensors", directory_.path() / "1.safetensors"},
            checkpoint::naming_from("")),
        {.step = 5, .without_moments = checkpoint::WithoutMoments::frozen});
    EXPECT_THROW(checkpoint::write_import(plan, run, {}), ConfigError);
    EXPECT_THROW(checkpoint::write_import(plan, run / "new", {.ranks = 0}), ConfigError);
    EXPECT_FALSE(fs::exists(run / "new"));
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

}  // namespace
}  // namespace shardmix
