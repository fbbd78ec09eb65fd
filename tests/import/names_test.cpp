#include <gtest/gtest.h>

#include "checkpoint/import_source.hpp"
#include "checkpoint/support.hpp"
#include "import/sources.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::f32;
using testing::NamedTensor;

class ImportNames : public ::testing::Test {
 protected:
  ImportSource match(const std::vector<NamedTensor>& tensors, const std::string& naming = "",
                     const nlohmann::json& metadata = {}) {
    const fs::path path = directory_.path() / (std::to_string(getpid()) + ".safetensors");
    testing::write_tensors(path, tensors, metadata);
    return match_names({path}, naming_from(naming));
  }
  std::string refusal(const std::vector<NamedTensor>& tensors, const std::string& naming = "",
                      const nlohmann::json& metadata = {}) {
    try {
      (void)match(tensors, naming, metadata);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "accepted";
  }
  static NamedTensor one(const std::string& name) { return f32(name, {1}, {1}); }

  testing::SharedDirectory directory_;
};

TEST_F(ImportNames, KnowsTheNamesOfShardmixAndTorch) {
  const ImportSource source = match({one("a"), one("a.m1"), one("a.v"), one("b"), one("b.exp_avg"),
                                     one("b.exp_avg_sq"), one("b.exp_avg_slow"), one("c.master"),
                                     one("c.exp_avg_fast"), f32("c.step", {}, {7})});
  ASSERT_EQ(source.parameters.size(), 3U);
  EXPECT_EQ(source.parameters[0].name, "a");
  EXPECT_EQ(source.parameters[0].states.size(), 2U);
  EXPECT_TRUE(source.parameters[0].weight.has_value());
  EXPECT_EQ(source.parameters[1].states.at("m2").tensor.name, "b.exp_avg_slow");
  EXPECT_EQ(source.parameters[1].states.at("v").tensor.name, "b.exp_avg_sq");
  EXPECT_EQ(source.parameters[2].states.at("m1").tensor.name, "c.exp_avg_fast");
  EXPECT_FALSE(source.parameters[2].weight.has_value());
  ASSERT_EQ(source.steps.size(), 1U);
  EXPECT_EQ(source.steps[0].step, 7);
}

TEST_F(ImportNames, OtherPatternsTakeTheirPlace) {
  const ImportSource source = match({one("model.x"), one("opt/x/m"), one("opt/x/v"), one("other")},
                                    "weight=model.NAME,m1=opt/NAME/m,v=opt/NAME/v");
  ASSERT_EQ(source.parameters.size(), 1U);
  EXPECT_EQ(source.parameters[0].name, "x");
  EXPECT_EQ(source.parameters[0].states.size(), 2U);
  EXPECT_EQ(source.unused, std::vector<std::string>{"other"});
}

TEST_F(ImportNames, RefusesWhatCouldMeanTwoThings) {
  // Is a.m1 the m1 of a, or a parameter with an m1 of its own?
  EXPECT_NE(refusal({one("a"), one("a.m1"), one("a.m1.m1")}).find("may be"), std::string::npos);
  EXPECT_NE(refusal({one("a.m1"), one("a.exp_avg")}).find("two tensors are the m1 of 'a'"),
            std::string::npos);
  EXPECT_NE(refusal({one("a.x")}, "m1=NAME.x,v=NAME.x").find("may be the m1 of 'a' or the v"),
            std::string::npos);
  EXPECT_NE(refusal({one("a"), one("b.w")}, "weight=NAME|b.NAME").find("accepted"),
            std::string::npos);
  EXPECT_NE(refusal({one("w"), one("b.w")}, "weight=NAME|b.NAME").find("two tensors"),
            std::string::npos);
}

TEST_F(ImportNames, StepsAreWholeNumbers) {
  const auto step = [&](const NamedTensor& tensor) { return refusal({one("a"), tensor}); };
  EXPECT_EQ(step(f32("a.step", {}, {3})), "accepted");
  EXPECT_EQ(step(f32("a.step", {1, 1}, {3})), "accepted");
  EXPECT_EQ(step({"a.step", "I64", {}, testing::bytes_of<std::int64_t>({3})}), "accepted");
  EXPECT_NE(step(f32("a.step", {}, {3.5})).find("3.5"), std::string::npos);
  EXPECT_NE(step(f32("a.step", {}, {-1})).find("-1"), std::string::npos);
  EXPECT_NE(step(f32("a.step", {}, {NAN})).find("nan"), std::string::npos);
  EXPECT_NE(step(f32("a.step", {}, {1e30F})).find("e+30"), std::string::npos);
  EXPECT_NE(step(f32("a.step", {2}, {3, 3})).find("2 elements"), std::string::npos);
  EXPECT_NE(step(f32("a.step", {0}, {})).find("0 elements"), std::string::npos);
  EXPECT_NE(step({"a.step", "BF16", {}, "ab"}).find("BF16"), std::string::npos);
  EXPECT_NE(step({"a.step", "I64", {}, testing::bytes_of<std::int64_t>({INT64_MIN})}).find("-9"),
            std::string::npos);
}

TEST_F(ImportNames, MetadataOfShardmixSaysTheRule) {
  nlohmann::json metadata{{"writer", "shardmix 0.1.0"},
                          {"step", "12"},
                          {"updates", "11"},
                          {"slow_step", "5"},
                          {"rule", "ademamix"},
                          {"hyper_parameters", R"({"lr": 0.5, "alpha": 3.0, "alpha_steps": 9})"}};
  const ImportSource source = match({one("a")}, "", metadata);
  EXPECT_EQ(source.rule, "ademamix");
  EXPECT_EQ(source.updates, 11);
  EXPECT_EQ(source.slow_step, 5);
  EXPECT_EQ(std::get<AdEMAMix>(source.groups.at(0)),
            (AdEMAMix{.lr = 0.5, .alpha = 3.0, .alpha_steps = 9}));
  metadata["rule"] = "sgd";
  EXPECT_NE(refusal({one("a")}, "", metadata).find("'sgd'"), std::string::npos);
  metadata["rule"] = "adamw";
  EXPECT_NE(refusal({one("a")}, "", metadata).find("alpha"), std::string::npos);
  metadata["hyper_parameters"] = "{";
  EXPECT_NE(refusal({one("a")}, "", metadata).find("JSON"), std::string::npos);
  EXPECT_NE(refusal({one("a")}, "", {{"step", "1e3"}}).find("'1e3'"), std::string::npos);
}

TEST_F(ImportNames, FilesOfOneCheckpointAgree) {
  const auto refusal_of = [&](const std::string& key, const std::string& first,
                              const std::string& second) -> std::string {
    std::vector<fs::path> paths;
    for (const std::string& text : {first, second}) {
      nlohmann::json metadata{{"writer", "shardmix 0.1.0"}};
      if (!text.empty()) metadata[key] = text;
      const std::string name = std::to_string(getpid()) + "." + std::to_string(paths.size());
      paths.push_back(directory_.path() / name);
      testing::write_tensors(paths.back(), {one(name)}, metadata);
    }
    try {
      const ImportSource source = match_names(paths, naming_from(""));
      return key == "updates" ? std::to_string(source.updates.value_or(0)) : "accepted";
    } catch (const CheckpointError& error) {
      return error.what();
    }
  };
  EXPECT_EQ(refusal_of("updates", "7", "7"), "7");
  EXPECT_EQ(refusal_of("updates", "7", ""), "7");
  for (const char* key : {"updates", "slow_step"})
    EXPECT_NE(refusal_of(key, "7", "8").find("one checkpoint"), std::string::npos) << key;
  EXPECT_NE(refusal_of("rule", "adamw", "lion").find("'lion', but"), std::string::npos);
}

TEST(ImportNaming, IsReadStrictly) {
  EXPECT_EQ(naming_from("").at("m1").size(), 3U);
  EXPECT_EQ(naming_from("m1=x.NAME").at("m1"), std::vector<std::string>{"x.NAME"});
  EXPECT_EQ(naming_from("m1=x.NAME").at("v").size(), 2U);
  for (const char* wrong : {"m3=NAME", "m1", "m1=", "m1=x", "m1=NAME.NAME", "m1=NAME,", "=NAME"})
    EXPECT_THROW((void)naming_from(wrong), ConfigError) << wrong;
}

}  // namespace
}  // namespace shardmix::checkpoint
