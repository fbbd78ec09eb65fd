// Names of parameters that other programs' files may or may not have.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/export_formats.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;
using Begin = void (*)(const fs::path&, const CheckpointInfo&, std::vector<ExportArray>&);

/// Makes a file with master and m1 of parameters of these names and this shape. Returns the
/// offsets.
std::vector<std::int64_t> begin_with(Begin begin, const std::vector<std::string>& names,
                                     const std::vector<std::int64_t>& shape = {2, 3}) {
  CheckpointInfo info{.rule = "adamw", .rule_json = "{}"};
  std::vector<ExportArray> arrays;
  for (const std::string& name : names) {
    for (const char* state : {"master", "m1"})
      arrays.push_back({.parameter = info.parameters.size(), .state = state});
    info.parameters.push_back({.name = name, .shape = shape});
  }
  const fs::path path = fs::temp_directory_path() / ("shardmix-export-" + std::to_string(getpid()));
  fs::remove(path);
  begin(path, info, arrays);
  fs::remove(path);
  std::vector<std::int64_t> offsets;
  for (const ExportArray& array : arrays) offsets.push_back(array.offset);
  return offsets;
}

std::string error_of(Begin begin, const std::vector<std::string>& names,
                     const std::vector<std::int64_t>& shape = {2, 3}) {
  try {
    (void)begin_with(begin, names, shape);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ExportNames, ArraysDoNotOverlap) {
  for (const Begin begin : {&begin_hdf5, &begin_safetensors}) {
    std::vector<std::int64_t> offsets =
        begin_with(begin, {"a", "a/b", "a/b/c", "ä ö.\"x\"\n", ".a"});
    std::ranges::sort(offsets);
    EXPECT_GT(offsets.front(), 0);
    for (std::size_t i = 1; i < offsets.size(); ++i)
      EXPECT_GE(offsets[i] - offsets[i - 1], 4 * 2 * 3);
  }
}

TEST(ExportNames, ThatHdf5CannotHave) {
  using namespace std::string_literals;
  for (const std::string& name : {""s, "/a"s, "a/"s, "a//b"s, "a/./b"s, "."s, "a\0b"s}) {
    EXPECT_NE(error_of(&begin_hdf5, {name}).find("can't have the name"), std::string::npos) << name;
    EXPECT_EQ(error_of(&begin_safetensors, {name}), "no error") << name;
  }
  EXPECT_NE(error_of(&begin_hdf5, {"a", "a/master"}).find("'/parameters/a/master'"),
            std::string::npos);
  EXPECT_NE(error_of(&begin_hdf5, {"a/m1", "a"}).find("'/parameters/a/m1'"), std::string::npos);
}

TEST(ExportNames, ShapesThatHdf5CannotHave) {
  const std::vector<std::int64_t> deep(33, 1);
  EXPECT_NE(error_of(&begin_hdf5, {"a"}, deep).find("33 extents of the parameter 'a'"),
            std::string::npos);
  EXPECT_EQ(error_of(&begin_safetensors, {"a"}, deep), "no error");
  EXPECT_EQ(error_of(&begin_hdf5, {"a"}, std::vector<std::int64_t>(32, 1)), "no error");
}

TEST(ExportNames, ThatSafetensorsCannotHave) {
  EXPECT_NE(error_of(&begin_safetensors, {"a", "a.m1"}).find("'a.m1'"), std::string::npos);
  EXPECT_NE(error_of(&begin_safetensors, {"__metadata__"}).find("'__metadata__'"),
            std::string::npos);
  EXPECT_EQ(error_of(&begin_hdf5, {"a", "a.m1", "__metadata__"}), "no error");
}

}  // namespace
}  // namespace shardmix::checkpoint
