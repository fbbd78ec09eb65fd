#include "checkpoint/rule_json.hpp"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace shardmix::checkpoint
