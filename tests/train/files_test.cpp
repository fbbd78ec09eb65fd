#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "shardmix/error.hpp"
#include "train/metrics.hpp"
#include "train/text.hpp"

namespace shardmix::train {
namespace {

namespace fs = std::filesystem;

/// An empty directory, gone at the end of the test.
class Files : public ::testing::Test {
 protected:
  Files() : directory_(fs::temp_directory_path() / ("shardmix-train-" + std::to_string(getpid()))) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~Files() override { fs::remove_all(directory_); }

  [[nodiscard]] fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name) << text;
    return directory_ / name;
  }
  [[nodiscard]] static std::vector<std::string> lines(const fs::path& path) {
    std::vector<std::string> all;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) all.push_back(line);
    return all;
  }

  fs::path directory_;
};

TEST_F(Files, TextIsReadAsBytes) {
  const TextFile text(write("text", std::string("a\0\xff\n", 4)));
  EXPECT_EQ(std::vector<std::uint8_t>(text.bytes().begin(), text.bytes().end()),
            (std::vector<std::uint8_t>{'a', 0, 0xff, '\n'}));
}

TEST_F(Files, TextHashTellsTextsApart) {
  const TextFile one(write("one", "some text"));
  const TextFile same(write("same", "some text"));
  const TextFile other(write("other", "some texT"));
  EXPECT_EQ(one.hash(), same.hash());
  EXPECT_NE(one.hash(), other.hash());
}

TEST_F(Files, TextThatIsNoneIsNamed) {
  for (const fs::path& path : {directory_ / "missing", directory_, write("empty", "")}) {
    try {
      const TextFile text(path);
      ADD_FAILURE() << path;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
    }
  }
}

TEST_F(Files, MetricsGoOnWhereTheRunDoes) {
  const fs::path path = directory_ / "metrics.jsonl";
  StepMetrics metrics;
  {
    MetricsFile file(path, 0);
    for (metrics.report.step = 1; metrics.report.step <= 5; ++metrics.report.step) {
      file.append(metrics);
    }
  }
  std::ofstream(path, std::ios::app) << R"({"step":6,"lo)";
  {
    MetricsFile file(path, 3);
    metrics.report.step = 4;
    metrics.loss = 0.5;
    file.append(metrics);
  }
  const auto found = lines(path);
  ASSERT_EQ(found.size(), 4U);
  EXPECT_EQ(found[3], to_json_line(metrics));
  EXPECT_EQ(found[2].find(R"({"step":3,)"), 0U);
}

TEST_F(Files, MetricsOfANewRunStartEmpty) {
  const fs::path path = write("metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n");
  { MetricsFile file(path, 0); }
  EXPECT_TRUE(lines(path).empty());
}

TEST_F(Files, MetricsThatCannotBeWrittenAreAnError) {
  EXPECT_THROW(MetricsFile(directory_ / "nowhere" / "metrics.jsonl", 0), Error);
}

}  // namespace
}  // namespace shardmix::train
