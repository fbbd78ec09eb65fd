#include "checkpoint/rule_json.hpp"

#include <gtest/gtest.h>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

std::string lr_json(const Schedule& lr) {
  return json_of(AdamW{.lr = lr}).at("lr").dump();
}

TEST(RuleJson, AScheduleHasTheNumbersOfItsShape) {
  EXPECT_EQ(lr_json(0.5), R"({"shape":"constant","peak":0.5,"warmup":0})");
  EXPECT_EQ(lr_json(inverse_sqrt(0.5, {.warmup = 2, .steps = 9})),
            R"({"shape":"inverse-sqrt","peak":0.5,"warmup":2,"steps":9})");
  EXPECT_EQ(lr_json(linear(0.5, {.warmup = 2, .steps = 9, .final = 0.25})),
            R"({"shape":"linear","peak":0.5,"warmup":2,"steps":9,"final":0.25})");
  EXPECT_EQ(lr_json(wsd_sqrt(0.5, {.warmup = 2, .steps = 9, .decay = 3})),
            R"({"shape":"wsd-sqrt","peak":0.5,"warmup":2,"steps":9,"final":0.0,"decay":3})");
}

TEST(RuleJson, WhatIsWrittenReadsTheSame) {
  const auto again = [](const Rule& rule) {
    return rule_from(name_of(rule), nlohmann::json::parse(json_of(rule).dump()));
  };
  for (const Rule& rule : all_rules()) EXPECT_EQ(json_of(again(rule)), json_of(rule));
  const AdEMAMix changed{.lr = wsd_sqrt(0.5, {.warmup = 2, .steps = 9, .decay = 3, .final = 0.1}),
                         .beta1 = 0.0,
                         .beta3 = 0.5,
                         .alpha_steps = 7,
                         .beta3_steps = 0};
  EXPECT_EQ(std::get<AdEMAMix>(again(changed)), changed);
}

TEST(RuleJson, RefusesWhatCannotBe) {
  const auto refusal = [](const char* rule, const char* text) {
    try {
      (void)rule_from(rule, nlohmann::json::parse(text));
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refusal("adamw", R"({"lr": 0.5})"), "accepted");
  for (const char* wrong :
       {R"([])", R"({"lr": "x"})", R"({"lr": -1})", R"({"beta1": 1})", R"({"beta3": 0.5})",
        R"({"beta1": null})", R"({"lr": {"shape": "steep"}})", R"({"lr": {"shape": 1}})",
        R"({"lr": {"slope": 1}})", R"({"lr": {"warmup": 0.5}})", R"({"alpha_steps": 3})"})
    EXPECT_NE(refusal("adamw", wrong).find("hyper-parameters of adamw"), std::string::npos)
        << wrong;
  EXPECT_NE(refusal("ademamix", R"({"alpha_steps": 1.5})").find("alpha_steps"), std::string::npos);
  EXPECT_NE(refusal("adam", "{}").find("'adam'"), std::string::npos);
}

}  // namespace
}  // namespace shardmix::checkpoint
