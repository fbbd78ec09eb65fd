#include "cli/suggest.hpp"

#include <gtest/gtest.h>

namespace shardmix::cli {
namespace {

TEST(DidYouMean, FindsTheNearestName) {
  const std::vector<std::string> names{"batch", "beta1", "beta2", "micro-batch", "steps"};
  EXPECT_EQ(did_you_mean("btch", names, "--"), "; did you mean --batch?");
  EXPECT_EQ(did_you_mean("micro_batch", names, "--"), "; did you mean --micro-batch?");
  EXPECT_EQ(did_you_mean("step", names, ""), "; did you mean steps?");
  EXPECT_EQ(did_you_mean("setps", names, ""), "; did you mean steps?");
}

TEST(DidYouMean, DoesNotGuess) {
  EXPECT_EQ(did_you_mean("learning-rate", {"lr", "steps"}, "--"), "");
  EXPECT_EQ(did_you_mean("x", {}, "--"), "");
  EXPECT_EQ(did_you_mean("", {"lr"}, "--"), "");
}

}  // namespace
}  // namespace shardmix::cli
