#include "train/trainer_state.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace shardmix::train {
namespace {

TrainerState some_state() {
  return {.seed = std::numeric_limits<std::uint64_t>::max(),
          .batch = 32,
          .shape = {.width = 64, .heads = 2, .layers = 3, .context = 17},
          .text_bytes = 1'000'000,
          .text_hash = 0x0123456789abcdef,
          .tokens = std::int64_t{1} << 60,
          .rule = "adamw, lr 0.001",
          .precision = "fp32, state full"};
}

TEST(TrainerState, ReadsBackWhatItWrote) {
  EXPECT_EQ(trainer_state_from_json(to_json(some_state())), some_state());
}

TEST(TrainerState, AnotherTrainersTextIsNoError) {
  for (const char* text :
       {"", "hello", "{}", "[]", R"({"seed": "x"})", R"({"seed": 1, "batch": 2})"}) {
    EXPECT_EQ(trainer_state_from_json(text), std::nullopt) << text;
  }
}

TEST(TrainerState, DifferencesAreOneSentenceEach) {
  TrainerState now = some_state();
  now.tokens = 0;
  EXPECT_TRUE(differences(some_state(), now).empty());
  now.text_hash = 1;
  now.seed = 5;
  now.batch = 64;
  now.shape.heads = 4;
  now.rule = "ademamix";
  now.precision = "bf16, master none, state full";
  const auto found = differences(some_state(), now);
  ASSERT_EQ(found.size(), 6U);
  EXPECT_NE(found[0].find("text"), std::string::npos);
  EXPECT_NE(found[1].find("--seed is 5"), std::string::npos);
  EXPECT_NE(found[2].find("--batch is 64"), std::string::npos);
  EXPECT_NE(found[3].find("--heads is 4"), std::string::npos);
  EXPECT_NE(found[4].find("ademamix"), std::string::npos);
  EXPECT_NE(found[5].find("bf16, master none"), std::string::npos);
}

}  // namespace
}  // namespace shardmix::train
