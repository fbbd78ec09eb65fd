// What a view is put together from; h5py_test.py reads whole views.

#include "checkpoint/view.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>

#include "checkpoint/boxes.hpp"
#include "checkpoint/support.hpp"

namespace shardmix::checkpoint {
namespace {

using Shape = std::vector<std::int64_t>;

/// The places of a box's elements in the whole array, in row-major order: counted one by one.
std::vector<std::int64_t> places(const Shape& shape, const Box& box) {
  std::vector<std::int64_t> all;
  for (std::int64_t i = 0; i < box.elements(); ++i) {
    std::int64_t rest = i;
    std::int64_t place = 0;
    std::int64_t step = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
      const std::int64_t at = box.start[d] + rest % box.count[d];
      EXPECT_TRUE(at >= 0 && at < shape[d]);
      place += at * step;
      step *= shape[d];
      rest /= box.count[d];
    }
    all.push_back(place);
  }
  return all;
}

TEST(Boxes, AreTheIntervalInItsOrder) {
  std::mt19937_64 random(3);
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{13}, Shape{1, 1}, Shape{5, 7}, Shape{1, 9},
                             Shape{9, 1}, Shape{3, 4, 5}, Shape{2, 1, 7}, Shape{3, 2, 5, 3},
                             Shape{1, 6, 1, 4}, Shape{2, 3, 2, 2, 3}}) {
    const std::int64_t elements = Box{{}, shape}.elements();
    for (int i = 0; i < 300; ++i) {
      const auto a = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(elements + 1));
      const auto b = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(elements + 1));
      const std::int64_t begin = std::min(a, b);
      const std::int64_t end = std::max(a, b);
      std::vector<std::int64_t> found;
      const std::vector<Box> boxes = boxes_of(shape, begin, end);
      for (const Box& box : boxes) {
        const std::vector<std::int64_t> more = places(shape, box);
        found.insert(found.end(), more.begin(), more.end());
      }
      std::vector<std::int64_t> expected;
      for (std::int64_t e = begin; e < end; ++e) expected.push_back(e);
      EXPECT_EQ(found, expected);
      EXPECT_LE(boxes.size(), std::max<std::size_t>(1, 2 * shape.size() - 1));
    }
    EXPECT_EQ(boxes_of(shape, 0, elements).size(), 1U) << "the whole is one box";
  }
  EXPECT_TRUE(boxes_of({0, 5}, 0, 0).empty());
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class ViewTest : public ::testing::Test {
 protected:
  Runtime runtime_ = adopt(MPI_COMM_WORLD, testing::test_options(1));
  testing::SharedDirectory directory_;
};

TEST_F(ViewTest, TheSameStateGivesTheSameBytes) {
  std::vector<std::string> views;
  for (const char* run : {"one", "another"}) {
    ShardedOptimizer optimizer(runtime_, testing::awkward_parameters(bf16), testing::test_rule);
    testing::start(optimizer, runtime_.rank());
    Checkpoints checkpoints(runtime_, directory_.path() / run);
    testing::train_steps(optimizer, 1);
    views.push_back(bytes_of(checkpoints.save(optimizer) / view_name));
    checkpoints.begin_save(optimizer);
    views.push_back(bytes_of(checkpoints.finish().value() / view_name));
  }
  EXPECT_FALSE(views.front().empty());
  for (const std::string& view : views) EXPECT_TRUE(view == views.front());
}

TEST_F(ViewTest, IsLeftOutWhereItWouldTakeTooLong) {
  if (runtime_.size() > 1) GTEST_SKIP() << "one rank is enough";
  Parameters parameters;
  // Each piece of 256 elements is the end of a row, one or two whole ones and a beginning: 9 boxes.
  parameters.add("matrix", {most_view_boxes / 9 * 256 / 100 * 6 / 5, 100}, fp32);
  ShardedOptimizer optimizer(runtime_, parameters, AdamW{}, {.bucket_elements = 256});
  testing::start(optimizer);
  const auto saved = Checkpoints(runtime_, directory_.path()).save(optimizer);
  const CheckpointInfo info = inspect_checkpoint(saved);
  EXPECT_FALSE(info.view.has_value());
  EXPECT_FALSE(std::filesystem::exists(saved / view_name));
  EXPECT_TRUE(verify_checkpoint(saved).is_good());
}

TEST_F(ViewTest, ShapesThatHdf5CannotHaveAreLeftOut) {
  Parameters parameters;
  parameters.add("deepest", std::vector<std::int64_t>(32, 1), fp32);
  parameters.add("too deep", std::vector<std::int64_t>(33, 1), fp32);
  ShardedOptimizer optimizer(runtime_, parameters, AdamW{});
  testing::start(optimizer);
  const auto saved = Checkpoints(runtime_, directory_.path()).save(optimizer);
  if (runtime_.rank() != 0) return;
  EXPECT_TRUE(verify_checkpoint(saved).is_good());
  const std::string view = bytes_of(saved / view_name);
  EXPECT_NE(view.find("[\"too deep\"]"), std::string::npos);  // the attribute left_out
  EXPECT_NE(view.find("deepest"), std::string::npos);
}

}  // namespace
}  // namespace shardmix::checkpoint
