#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/checkpoint_report.hpp"

namespace shardmix::cli {
namespace {

CheckpointInfo some_checkpoint() {
  CheckpointInfo info;
  info.directory = "run/step_000000012";
  info.created = "2026-01-02T03:04:05Z";
  info.shardmix_version = "1.2.3";
  info.rule = "ademamix";
  info.rule_json = R"({"lr":{"shape":"cosine","peak":0.001},"beta1":0.9})";
  info.clocks = {.step = 12, .updates = 11, .slow_step = 10};
  info.loss_scale = 4096.0;
  info.world_size = 2;
  info.states = {"master", "m1"};
  info.parameters = {{.name = "scalar", .shape = {}},
                     {.name = "matrix", .shape = {30, 40}, .dtype = bf16},
                     {.name = "none", .shape = {0, 7}, .trainable = false}};
  info.memory = {{.parameter = 2048, .m1 = 1024}, {.parameter = 2048}};
  info.files = {{.name = "shard-00000-of-00002.h5", .bytes = 4096, .xxh3_128 = "ab12"}};
  info.view = {.name = "view.h5", .bytes = 8192, .xxh3_128 = "cd34"};
  info.trainer_state = "not JSON";
  return info;
}

TEST(CheckpointReport, TellsAllOfItToPeople) {
  const std::string text = report_text(some_checkpoint());
  for (const char* part :
       {"run/step_000000012", "2026-01-02T03:04:05Z", "1.2.3", "step 12, 11 updates, slow step 10",
        "loss scale    4096", "ademamix: lr (shape cosine, peak 0.001), beta1 0.9", "master, m1",
        "rank 1", "2.00 KiB", "shard-00000-of-00002.h5", "ab12", "view.h5", "cd34",
        "3, 1201 elements", "bf16 30 x 40", "frozen", "not JSON"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
}

TEST(CheckpointReport, TellsAllOfItToPrograms) {
  const auto json = nlohmann::json::parse(report_json(some_checkpoint()));
  EXPECT_EQ(json.at("slow_step"), 10);
  EXPECT_EQ(json.at("loss_scale"), 4096.0);
  EXPECT_EQ(json.at("hyper_parameters").at("lr").at("peak"), 0.001);
  EXPECT_EQ(json.at("memory").at(0).at("total"), 3072);
  EXPECT_EQ(json.at("parameters").at(1).at("shape"), (std::vector<int>{30, 40}));
  EXPECT_EQ(json.at("files").at(0).at("bytes"), 4096);
  EXPECT_EQ(json.at("view").at("bytes"), 8192);
}

}  // namespace
}  // namespace shardmix::cli
