#include "checkpoint/import_plan.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

SourceTensor tensor(const std::string& name, std::vector<std::int64_t> shape,
                    std::size_t type = 11) {
  return {.file = 0, .tensor = {.name = name, .type = safetensors_types.at(type), .shape = shape}};
}
constexpr std::size_t bf16_type = 8;
constexpr std::size_t i32_type = 9;

SourceParameter parameter(const std::string& name) {
  return {.name = name,
          .weight = tensor(name, {2, 3}),
          .states = {{"m1", tensor(name + ".m1", {2, 3})}, {"v", tensor(name + ".v", {2, 3})}}};
}

/// Two parameters of an AdamW that took 5 steps.
ImportSource source() {
  return {.steps = {{5, "one"}}, .parameters = {parameter("a"), parameter("b")}};
}

std::string refusal(const std::function<void(ImportSource&)>& change,
                    const PlanOptions& options = {}) {
  ImportSource changed = source();
  change(changed);
  try {
    (void)plan_import(changed, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(ImportPlan, TellsWhatTheCheckpointWillBe) {
  const ImportPlan plan = plan_import(source(), {});
  EXPECT_EQ(plan.info.rule, "adamw");
  EXPECT_EQ(plan.info.rule_json, "{}");
  EXPECT_EQ(plan.info.clocks, (Clocks{.step = 5, .updates = 5, .slow_step = 0}));
  EXPECT_EQ(plan.info.states, (std::vector<std::string>{"master", "m1", "v"}));
  ASSERT_EQ(plan.parameters.size(), 2U);
  EXPECT_EQ(plan.parameters[1].tensors.at("master").tensor.name, "b");
  EXPECT_TRUE(plan.warnings.empty());
}

TEST(ImportPlan, AllStepsAgree) {
  EXPECT_EQ(refusal([](ImportSource& s) { s.steps.push_back({5, "two"}); }), "accepted");
  const std::string said = refusal([](ImportSource& s) { s.steps.push_back({6, "two"}); });
  EXPECT_NE(said.find("one is 5, but that of two is 6"), std::string::npos) << said;
  EXPECT_NE(refusal([](ImportSource&) {}, {.step = 4}).find("--step is 4"), std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) { s.steps.clear(); }).find("say --step"),
            std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) {
              s.steps = {{0, "one"}};
            }).find("nothing to go on"),
            std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) { s.updates = 6; }).find("impossible"), std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) { s.updates = 0; }).find("impossible"), std::string::npos);
}

TEST(ImportPlan, ShapesAndTypesFit) {
  const std::string said = refusal([](ImportSource& s) {
    s.parameters[1].states["v"] = tensor("x", {3, 2});
  });
  EXPECT_NE(said.find("'b' has weights of shape (2, 3), but v of shape (3, 2)"), std::string::npos)
      << said;
  EXPECT_NE(refusal([](ImportSource& s) {
              s.parameters[0].states["m1"] = tensor("x", {2, 3}, i32_type);
            }).find("I32"),
            std::string::npos);
}

TEST(ImportPlan, StatesAreThoseOfTheRule) {
  const auto drop = [](ImportSource& s) { s.parameters[1].states.erase("v"); };
  EXPECT_NE(refusal(drop).find("'b' has no v, but other moments"), std::string::npos);
  const auto add = [](ImportSource& s) { s.parameters[1].states["m2"] = tensor("x", {2, 3}); };
  EXPECT_NE(refusal(add).find("'a' has no m2"), std::string::npos);  // taken for ademamix
  EXPECT_NE(refusal(add, {.rule = "adamw"}).find("'b' has m2, which adamw doesn't keep"),
            std::string::npos);
  EXPECT_NE(refusal([](ImportSource&) {}, {.rule = "adam"}).find("'adam'"), std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) { s.rule = "adamw"; }, {.rule = "lion"}).find("--rule"),
            std::string::npos);
  const auto two = [](ImportSource& s) {
    s.rule = "ademamix";
    s.groups = {AdEMAMix{}, AdEMAMix{.beta1 = 0.0}};
  };
  EXPECT_NE(refusal(two).find("one group"), std::string::npos);
}

TEST(ImportPlan, MasterWeights) {
  ImportSource mixed = source();
  mixed.parameters[0].weight = tensor("a", {2, 3}, bf16_type);
  mixed.parameters[1].weight = tensor("b", {2, 3}, bf16_type);
  mixed.parameters[1].states["master"] = tensor("b.master", {2, 3});
  const ImportPlan plan = plan_import(mixed, {});
  EXPECT_EQ(plan.parameters[0].parameter.dtype, bf16);
  EXPECT_EQ(plan.parameters[1].tensors.at("master").tensor.name, "b.master");
  ASSERT_EQ(plan.warnings.size(), 1U);
  EXPECT_EQ(plan.warnings[0],
            "1 parameters have no master weights: these start from weights that were rounded: a");
  EXPECT_NE(refusal([](ImportSource& s) {
              s.parameters[0].states["master"] = tensor("x", {2, 3});
            }).find("which of them are right"),
            std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) { s.parameters[0].weight.reset(); }).find("neither"),
            std::string::npos);
}

TEST(ImportPlan, ParametersWithoutMoments) {
  const auto bare = [] {
    ImportSource s = source();
    s.parameters[1].states.clear();
    return s;
  };
  EXPECT_NE(refusal([&](ImportSource& s) { s = bare(); }).find("--without-moments"),
            std::string::npos);
  const ImportPlan frozen = plan_import(bare(), {.without_moments = WithoutMoments::frozen});
  EXPECT_FALSE(frozen.info.parameters[1].trainable);
  const ImportPlan zeros = plan_import(bare(), {.without_moments = WithoutMoments::zeros});
  EXPECT_TRUE(zeros.info.parameters[1].trainable);
  EXPECT_EQ(zeros.parameters[1].tensors.size(), 1U);
  const ImportPlan skip = plan_import(bare(), {.without_moments = WithoutMoments::skip});
  EXPECT_EQ(skip.parameters.size(), 1U);
  for (const ImportPlan* plan : {&frozen, &zeros, &skip}) EXPECT_EQ(plan->warnings.size(), 1U);
  const auto all = [](ImportSource& s) {
    for (SourceParameter& p : s.parameters) p.states.clear();
  };
  EXPECT_NE(refusal(all, {.without_moments = WithoutMoments::frozen}).find("weights alone"),
            std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) { s.parameters[0].trainable = false; }).find("frozen"),
            std::string::npos);
}

TEST(ImportPlan, NamesAreUtf8) {
  const auto rename = [](const std::string& name) {
    return refusal([&](ImportSource& s) { s.parameters[0].name = name; });
  };
  EXPECT_EQ(rename("\xc3\xa9"), "accepted");
  EXPECT_EQ(rename("\xef\xbf\xbd"), "accepted");  // the mark of replacement itself
  for (const char* wrong : {"\xc3", "a\xff", "\xa9", "\xed\xa0\x80"})
    EXPECT_NE(rename(wrong).find("isn't UTF-8"), std::string::npos) << wrong;
}

TEST(ImportPlan, NamesComeFromAListOnlyWhereThereIsAnOrder) {
  const PlanOptions list{.names = {"x", "y"}};
  EXPECT_NE(refusal([](ImportSource&) {}, list).find("needs a source whose parameters have an"),
            std::string::npos);
  ImportSource ordered = source();
  ordered.has_order = true;
  EXPECT_EQ(plan_import(ordered, list).info.parameters[0].name, "x");
  ImportSource numbers = source();
  numbers.parameters[0].name = "1";
  numbers.parameters[1].name = "0";
  const ImportPlan plan = plan_import(numbers, list);
  EXPECT_EQ(plan.info.parameters[0].name, "x");
  EXPECT_EQ(plan.parameters[0].tensors.at("v").tensor.name, "b.v");
  const auto rename = [](std::string first, std::string second) {
    return [=](ImportSource& s) {
      s.parameters[0].name = first;
      s.parameters[1].name = second;
    };
  };
  EXPECT_NE(refusal(rename("0", "2"), list).find("'2'"), std::string::npos);
  EXPECT_NE(refusal(rename("0", "01"), list).find("'01'"), std::string::npos);
  EXPECT_NE(refusal(rename("0", "1"), {.names = {"x"}}).find("1 names for 2"), std::string::npos);
  EXPECT_NE(refusal(rename("0", "1"), {.names = {"x", "x"}}).find("two parameters"),
            std::string::npos);
  EXPECT_NE(refusal([](ImportSource& s) { s.parameters.clear(); }).find("no parameter"),
            std::string::npos);
}

}  // namespace
}  // namespace shardmix::checkpoint
