#include "checkpoint/manifest.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

CheckpointInfo example() {
  CheckpointInfo info;
  info.created = "2026-01-01T00:00:00Z";
  info.shardmix_version = "0.1.0";
  info.rule = "adamw";
  info.rule_json = R"({"beta1":0.9})";
  info.clocks = {.step = 12, .updates = 11, .slow_step = 3};
  info.loss_scale = 4096.0;
  info.usable_steps = 7;
  info.world_size = 2;
  info.states = {"master", "m1", "v"};
  info.parameters = {{.name = "a/b \"c\"\n", .shape = {2, 3}, .dtype = bf16, .trainable = true},
                     {.name = "scalar", .shape = {}, .dtype = fp32, .trainable = false}};
  info.memory = {{.parameter = 1,
                  .gradient = 2,
                  .reduced_gradient = 3,
                  .master = 4,
                  .m1 = 5,
                  .m2 = 6,
                  .v = 7}};
  info.files = {{.name = "shard-00000-of-00001.h5", .bytes = 123, .xxh3_128 = "00ff"}};
  info.trainer_state = "any \"text\"";
  return info;
}

TEST(Manifest, RestoresWhatWasWritten) {
  const CheckpointInfo info = example();
  const CheckpointInfo read = parse_manifest(manifest_text(info), "somewhere");
  EXPECT_EQ(read.directory, "somewhere");
  EXPECT_EQ(read.clocks, info.clocks);
  EXPECT_EQ(read.parameters[0].name, info.parameters[0].name);
  EXPECT_EQ(read.parameters[0].shape, info.parameters[0].shape);
  EXPECT_EQ(read.parameters[1].trainable, false);
  EXPECT_EQ(read.memory, info.memory);
  EXPECT_EQ(read.files[0].bytes, 123);
  EXPECT_EQ(read.loss_scale, 4096.0);
  EXPECT_EQ(read.usable_steps, 7);
  EXPECT_EQ(read.trainer_state, info.trainer_state);
  EXPECT_EQ(manifest_text(read), manifest_text(info));
}

TEST(Manifest, RefusesWhatCannotBe) {
  const auto expect_refused = [](const std::string& pointer, const nlohmann::json& value) {
    auto json = nlohmann::json::parse(manifest_text(example()));
    json[nlohmann::json::json_pointer(pointer)] = value;
    EXPECT_THROW((void)parse_manifest(json.dump(), "x"), CheckpointError)
        << pointer << " = " << value;
  };
  expect_refused("/format", "another");
  expect_refused("/format_version", 2);
  expect_refused("/step", "twelve");
  expect_refused("/step", -1);
  expect_refused("/updates", 13);
  expect_refused("/loss_scale", 0.5);
  expect_refused("/usable_steps", -1);
  expect_refused("/files/0/name", "../../etc/passwd");
  expect_refused("/files/0/name", "/etc/passwd");
  expect_refused("/files/0/name", "..");
  expect_refused("/parameters/0/shape", nlohmann::json::array({-1}));
  expect_refused("/parameters/0/shape", nlohmann::json::array({1LL << 40, 1LL << 40}));
  expect_refused("/parameters/0/dtype", "fp7");
  expect_refused("/parameters/1/name", "a/b \"c\"\n");
  EXPECT_THROW((void)parse_manifest("", "x"), CheckpointError);
  EXPECT_THROW((void)parse_manifest("[]", "x"), CheckpointError);
}

}  // namespace
}  // namespace shardmix::checkpoint
