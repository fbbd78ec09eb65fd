#include "shardmix/parameters.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "shardmix/error.hpp"

namespace shardmix {
namespace {

TEST(Parameters, CountsElements) {
  Parameters parameters;
  parameters.add("scalar", {}, fp32);
  parameters.add("empty", {3, 0, 5}, fp32);
  parameters.add("matrix", {3, 7}, bf16);
  EXPECT_EQ(parameters[0].elements(), 1);
  EXPECT_EQ(parameters[1].elements(), 0);
  EXPECT_EQ(parameters[2].elements(), 21);
  EXPECT_EQ(parameters.elements(), 22);
}

TEST(Parameters, FindsNamesAndAliases) {
  Parameters parameters;
  parameters.add("a", {1}, fp32);
  parameters.add("b", {1}, fp32);
  parameters.tie("c", "b");
  EXPECT_EQ(parameters.index("c"), 1u);
  EXPECT_FALSE(parameters.find("d"));
  EXPECT_THROW((void)parameters.index("d"), ConfigError);
}

TEST(Parameters, RefusesWhatCannotBe) {
  Parameters parameters;
  parameters.add("a", {1}, fp32);
  EXPECT_THROW(parameters.add("a", {1}, fp32), ConfigError);
  EXPECT_THROW(parameters.add("", {1}, fp32), ConfigError);
  EXPECT_THROW(parameters.add("b", {2, -1}, fp32), ConfigError);
  EXPECT_THROW(parameters.add("b", {1}, fp32, {.lr_scale = -1.0}), ConfigError);
  EXPECT_THROW(parameters.add("b", {1}, fp32, {.weight_decay = std::nan("")}), ConfigError);
  EXPECT_THROW(parameters.tie("a", "a"), ConfigError);
  EXPECT_THROW(parameters.tie("b", "missing"), ConfigError);
  EXPECT_EQ(parameters.size(), 1u);
}

}  // namespace
}  // namespace shardmix
