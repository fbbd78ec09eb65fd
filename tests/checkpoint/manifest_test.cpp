#include "checkpoint/manifest.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/hashes.hpp"
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
  info.files = {{.name = "shard-00000-of-00001.h5",
                 .bytes = 4096 + 3 * 24,
                 .xxh3_128 = "00ff",
                 .head_bytes = 4096,
                 .blocks = {0x0123456789abcdef, 7},
                 .arrays = {{"/index", 512, 64},
                            {"/frozen/index", 576, 32},
                            {"/state/master", 4096, 24},
                            {"/state/m1", 4120, 24},
                            {"/state/v", 4144, 20},
                            {"/frozen/value", 4164, 4}}}};
  info.view = {.name = "view.h5", .bytes = 81920, .xxh3_128 = "11ff"};
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
  EXPECT_EQ(read.files[0].bytes, 4168);
  EXPECT_EQ(read.files[0].blocks, info.files[0].blocks);
  EXPECT_EQ(read.files[0].arrays[3].offset, 4120);
  EXPECT_EQ(read.view.value().name, "view.h5");
  EXPECT_EQ(read.view.value().bytes, 81920);
  EXPECT_EQ(read.view.value().xxh3_128, "11ff");
  EXPECT_EQ(read.loss_scale, 4096.0);
  EXPECT_EQ(read.usable_steps, 7);
  EXPECT_EQ(read.trainer_state, info.trainer_state);
  EXPECT_EQ(manifest_text(read), manifest_text(info));
}

TEST(Manifest, NeedsNoView) {
  CheckpointInfo info = example();
  info.view.reset();
  EXPECT_FALSE(parse_manifest(manifest_text(info), "x").view.has_value());
}

/// A manifest with the checksum that a writer with bad intentions would give it.
std::string signed_text(nlohmann::ordered_json json) {
  json.erase("xxh3_128");
  std::string text = json.dump(1);
  text.resize(text.size() - 2);
  return text + ",\n \"xxh3_128\": \"" + digits128_of(text) + "\"\n}\n";
}

/// What is said of a text that must be refused.
std::string refusal(const std::string& text) {
  try {
    (void)parse_manifest(text, "x");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Manifest, RefusesAnyFlippedBitAndAnyMissingByte) {
  const std::string good = manifest_text(example());
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      EXPECT_NE(refusal(bad), "accepted") << "bit " << bit << " of byte " << i;
    }
    EXPECT_NE(refusal(good.substr(0, i)), "accepted") << i;
  }
  EXPECT_NE(refusal(good + "\n"), "accepted");
  EXPECT_NE(refusal(good + good), "accepted");
}

TEST(Manifest, RefusesWhatIsNestedTooDeep) {
  auto json = nlohmann::ordered_json::parse(manifest_text(example()));
  json["hyper_parameters"] = "HERE";
  json.erase("xxh3_128");
  std::string text = json.dump(1);
  text.resize(text.size() - 2);
  text.replace(text.find("\"HERE\""), 6, std::string(1 << 20, '[') + std::string(1 << 20, ']'));
  text += ",\n \"xxh3_128\": \"" + digits128_of(text) + "\"\n}\n";
  EXPECT_NE(refusal(text).find("deep"), std::string::npos) << refusal(text).substr(0, 200);
}

/// The example with this for its hyper-parameters, signed.
std::string with_hyper_parameters(const std::string& json) {
  std::string text = manifest_text(example());
  text.resize(text.rfind(",\n \"xxh3_128\""));
  const std::size_t begin = text.find('{', text.find("\"hyper_parameters\""));
  text.replace(begin, text.find('}', begin) + 1 - begin, json);
  return text + ",\n \"xxh3_128\": \"" + digits128_of(text) + "\"\n}\n";
}

TEST(Manifest, RefusesWhatCouldMeanTwoThingsOrIsTooMuch) {
  ASSERT_EQ(refusal(with_hyper_parameters(R"({"a":1,"b":{"a":1}})")), "accepted");
  EXPECT_NE(refusal(with_hyper_parameters(R"({"a":1,"b":0,"a":1})")).find("'a' twice"),
            std::string::npos);
  EXPECT_NE(refusal(with_hyper_parameters("1e999")).find("beyond"), std::string::npos);
  EXPECT_NE(refusal(with_hyper_parameters(std::string("1\0", 2))).find("zero"), std::string::npos);
  std::string many = R"({"x":0)";
  for (int i = 0; i < 1000; ++i) many += ",\"" + std::to_string(i) + "\":0";
  EXPECT_NE(refusal(with_hyper_parameters(many + "}")).find("1000 members"), std::string::npos);
}

TEST(Manifest, RefusesWhatCannotBe) {
  ASSERT_EQ(refusal(signed_text(nlohmann::ordered_json::parse(manifest_text(example())))),
            "accepted");
  const auto expect_refused = [](const std::string& pointer, const nlohmann::json& value) {
    auto json = nlohmann::ordered_json::parse(manifest_text(example()));
    json[nlohmann::ordered_json::json_pointer(pointer)] = value;
    const std::string said = refusal(signed_text(json));
    EXPECT_NE(said, "accepted") << pointer << " = " << value;
    EXPECT_EQ(said.find("its text"), std::string::npos) << said;
  };
  expect_refused("/format", "another");
  expect_refused("/format_version", 2);
  expect_refused("/step", "twelve");
  expect_refused("/step", -1);
  expect_refused("/step", 12.5);
  expect_refused("/step", 1e300);
  expect_refused("/step", std::numeric_limits<std::uint64_t>::max());
  expect_refused("/world_size", 1e300);
  expect_refused("/world_size", std::int64_t{1} << 40);
  expect_refused("/world_size", -1);
  expect_refused("/memory/0/m1", 1e300);
  expect_refused("/memory/0/m1", -1);
  expect_refused("/memory/0/m1", std::numeric_limits<std::int64_t>::max());
  expect_refused("/updates", 13);
  expect_refused("/loss_scale", 0.5);
  expect_refused("/usable_steps", -1);
  expect_refused("/files/0/name", "../../etc/passwd");
  expect_refused("/files/0/name", "/etc/passwd");
  expect_refused("/files/0/name", "..");
  expect_refused("/files/0/name", std::string("a\0b", 3));
  expect_refused("/files/0/bytes", 4168 + (64 << 20));
  expect_refused("/files/0/bytes", -1);
  expect_refused("/files/0/bytes", std::int64_t{1} << 60);
  expect_refused("/files/0/head_bytes", 4097);
  expect_refused("/files/0/head_bytes", 5000);
  expect_refused("/files/0/head_bytes", -4);
  expect_refused("/files/0/blocks/0", "0123456789abcdeg");
  expect_refused("/files/0/blocks/1", "7");
  expect_refused("/files/0/arrays/0/offset", 4096);
  expect_refused("/files/0/arrays/0/offset", -32);
  expect_refused("/files/0/arrays/0/bytes", 65);
  expect_refused("/files/0/arrays/0/bytes", std::numeric_limits<std::int64_t>::max());
  expect_refused("/files/0/arrays/2/offset", 4092);
  expect_refused("/files/0/arrays/2/offset", 4120);
  expect_refused("/files/0/arrays/2/bytes", 28);
  expect_refused("/files/0/arrays/2/name", "/state/m1");
  expect_refused("/files/0/arrays/2/name", "/state/m2");
  expect_refused("/files/0/arrays/5/name", "/frozen/index");
  expect_refused("/files/0/arrays/4/offset", std::numeric_limits<std::int64_t>::max());
  expect_refused("/view", nullptr);
  expect_refused("/view", nlohmann::json::object());
  expect_refused("/view/name", "../view.h5");
  expect_refused("/view/name", ".view.h5");
  expect_refused("/view/name", "");
  expect_refused("/view/name", "shard-00000-of-00001.h5");
  expect_refused("/view/bytes", -1);
  expect_refused("/view/bytes", std::int64_t{1} << 60);
  expect_refused("/view/bytes", "many");
  expect_refused("/view/xxh3_128", 7);
  expect_refused("/states/0", "m7");
  expect_refused("/states/0", "m1");
  expect_refused("/parameters/0/shape", nlohmann::json::array({-1}));
  expect_refused("/parameters/0/shape", nlohmann::json::array({1e300}));
  expect_refused("/parameters/0/shape", nlohmann::json::array({1LL << 60}));
  expect_refused("/parameters/0/shape", nlohmann::json::array({1.5}));
  expect_refused("/parameters/0/shape", nlohmann::json::array({1LL << 40, 1LL << 40}));
  expect_refused("/parameters/0/dtype", "fp7");
  expect_refused("/parameters/1/name", "a/b \"c\"\n");
  EXPECT_THROW((void)parse_manifest("", "x"), CheckpointError);
  EXPECT_THROW((void)parse_manifest("[]", "x"), CheckpointError);
}

}  // namespace
}  // namespace shardmix::checkpoint
