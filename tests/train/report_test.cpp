#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "train/format.hpp"
#include "train/memory_table.hpp"
#include "train/metrics.hpp"

namespace shardmix::train {
namespace {

TEST(FormatBytes, HasThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1023), "1.00 KiB");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_bytes(1024 * 1024 - 1), "1.00 MiB");
  EXPECT_EQ(format_bytes(std::int64_t{99} << 20), "99.0 MiB");
  EXPECT_EQ(format_bytes(std::int64_t{3} << 40), "3.00 TiB");
}

TEST(FormatDuration, GrowsWithTheTime) {
  EXPECT_EQ(format_duration(0.2), "0s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(185), "3m05s");
  EXPECT_EQ(format_duration(7620), "2h07m");
}

TEST(FormatCount, KeepsThreeDigits) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(999.7), "1.00k");
  EXPECT_EQ(format_count(842'496), "842k");
  EXPECT_EQ(format_count(12'345'678), "12.3M");
  EXPECT_EQ(format_count(1.3e9), "1.30G");
}

TEST(MemoryTable, EqualRanksShareARow) {
  const MemoryReport small{.parameter = 1024, .gradient = 1024, .m1 = 512};
  const MemoryReport large{.parameter = 2048, .gradient = 1024, .m1 = 512};
  const std::string table = memory_table(std::array{small, small, large});
  EXPECT_NE(table.find("ranks 0-1"), std::string::npos) << table;
  EXPECT_NE(table.find("rank 2"), std::string::npos) << table;
  EXPECT_NE(table.find("together"), std::string::npos) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 3);
  EXPECT_EQ(memory_table(std::array{small}).find("together"), std::string::npos);
}

TEST(MetricsLine, NumbersReadBackAsTheSameDoubles) {
  StepMetrics metrics;
  metrics.report = {.step = 7,
                    .lr = 0.1 + 0.2,
                    .alpha = 1.0 / 3.0,
                    .beta3 = 0.9999,
                    .gradient_norm = 5e-324,
                    .clip_scale = 0.1,
                    .loss_scale = 65536.0,
                    .skipped = false,
                    .reason = ""};
  metrics.loss = std::nextafter(2.5, 3.0);
  metrics.held_out_loss = 1e300 / 7.0;
  const auto json = nlohmann::json::parse(to_json_line(metrics));
  EXPECT_EQ(json.at("step"), 7);
  EXPECT_EQ(json.at("lr").get<double>(), 0.1 + 0.2);
  EXPECT_EQ(json.at("alpha").get<double>(), 1.0 / 3.0);
  EXPECT_EQ(json.at("gradient_norm").get<double>(), 5e-324);
  EXPECT_EQ(json.at("loss_scale").get<double>(), 65536.0);
  EXPECT_EQ(json.at("loss").get<double>(), std::nextafter(2.5, 3.0));
  EXPECT_EQ(json.at("held_out_loss").get<double>(), 1e300 / 7.0);
}

TEST(MetricsLine, IsValidJsonWhateverHappened) {
  StepMetrics metrics;
  metrics.loss = std::nan("");
  metrics.report.gradient_norm = std::numeric_limits<double>::infinity();
  metrics.report.skipped = true;
  metrics.report.reason = "element 3 of 'h.0' is \"nan\"\n\xff";
  const auto json = nlohmann::json::parse(to_json_line(metrics));
  EXPECT_TRUE(json.at("loss").is_null());
  EXPECT_TRUE(json.at("gradient_norm").is_null());
  EXPECT_TRUE(json.at("skipped").get<bool>());
  EXPECT_FALSE(json.contains("held_out_loss"));
}

}  // namespace
}  // namespace shardmix::train
