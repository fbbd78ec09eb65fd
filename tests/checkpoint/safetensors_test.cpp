#include "checkpoint/safetensors.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "checkpoint/export_formats.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// A file's bytes with this header and so many bytes of values.
std::string file_of(const std::string& header, std::size_t values) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + std::string(values, 'v');
}

const fs::path& place() {
  static const fs::path path =
      fs::temp_directory_path() / ("shardmix-" + std::to_string(getpid()) + ".safetensors");
  return path;
}

Safetensors read(const std::string& bytes) {
  std::ofstream(place(), std::ios::binary | std::ios::trunc) << bytes;
  const struct Remover {
    ~Remover() { fs::remove(place()); }
  } remover;
  return read_safetensors(place());
}

/// What is said of a file that must be refused.
std::string refusal(const std::string& bytes) {
  try {
    (void)read(bytes);
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find(place().string()), std::string::npos) << error.what();
    return error.what();
  }
  return "accepted";
}

void expect_refused(const std::string& header, std::size_t values, const std::string& part) {
  const std::string said = refusal(file_of(header, values));
  EXPECT_NE(said.find(part), std::string::npos) << header << "\n" << said;
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + '}';
}

TEST(Safetensors, ReadsWhatOthersWrite) {
  // The order of names isn't that of values; spaces pad the header; a tensor may have no elements.
  const std::string header = R"({"__metadata__":{"format":"pt","ä":"\u00e4"},)" +
                             tensor("b", "BF16", "[2,3]", "[8,20]") + "," +
                             tensor("none", "I64", "[0,7]", "[20,20]") + "," +
                             tensor("a\\n", "F64", "[]", "[0,8]") + "}     ";
  const Safetensors found = read(file_of(header, 20));
  EXPECT_EQ(found.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"ä", "ä"}}));
  EXPECT_EQ(found.file_bytes, 8 + std::ssize(header) + 20);
  ASSERT_EQ(found.tensors.size(), 3U);
  EXPECT_EQ(found.tensors[0].name, "a\n");
  EXPECT_EQ(found.tensors[0].shape, std::vector<std::int64_t>{});
  EXPECT_EQ(found.tensors[0].offset, 8 + std::ssize(header));
  EXPECT_EQ(found.tensors[1].name, "b");
  EXPECT_EQ(found.tensors[1].type.name, "BF16");
  EXPECT_EQ(found.tensors[1].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(found.tensors[1].offset, 8 + std::ssize(header) + 8);
  EXPECT_EQ(found.tensors[1].bytes, 12);
  EXPECT_EQ(found.tensors[2].bytes, 0);
  EXPECT_TRUE(read(file_of("{}", 0)).tensors.empty());
}

TEST(Safetensors, KnowsAllTypes) {
  for (const auto& [dtype, bytes] : std::map<std::string, std::size_t>{{"BOOL", 1},
                                                                       {"U8", 1},
                                                                       {"I8", 1},
                                                                       {"F8_E5M2", 1},
                                                                       {"F8_E4M3", 1},
                                                                       {"I16", 2},
                                                                       {"U16", 2},
                                                                       {"F16", 2},
                                                                       {"BF16", 2},
                                                                       {"I32", 4},
                                                                       {"U32", 4},
                                                                       {"F32", 4},
                                                                       {"F64", 8},
                                                                       {"I64", 8},
                                                                       {"U64", 8}}) {
    const std::string offsets = "[0," + std::to_string(3 * bytes) + "]";
    const auto found = read(file_of("{" + tensor("x", dtype, "[3]", offsets) + "}", 3 * bytes));
    EXPECT_EQ(found.tensors[0].type.name, dtype);
  }
  expect_refused("{" + tensor("x", "F4", "[2]", "[0,1]") + "}", 1, "'F4', which isn't known");
  expect_refused("{" + tensor("x", "f32", "[1]", "[0,4]") + "}", 4, "'f32', which isn't known");
}

TEST(Safetensors, ReadsWhatIsExported) {
  const CheckpointInfo info{.shardmix_version = "1.2.3",
                            .rule = "adamw",
                            .rule_json = "{}",
                            .clocks = {.step = 12},
                            .parameters = {{.name = "z \"ä\"", .shape = {2, 3}},
                                           {.name = "a", .shape = {}},
                                           {.name = "none", .shape = {0, 5}}}};
  std::vector<ExportArray> arrays{{.parameter = 0, .state = "master"},
                                  {.parameter = 0, .state = "m1"},
                                  {.parameter = 1, .state = "master"},
                                  {.parameter = 2, .state = "master"}};
  fs::remove(place());
  begin_safetensors(place(), info, arrays);
  fs::resize_file(place(), fs::file_size(place()) + 24 + 24 + 4);
  const Safetensors found = read_safetensors(place());
  fs::remove(place());
  EXPECT_EQ(found.metadata.at("step"), "12");
  ASSERT_EQ(found.tensors.size(), 4U);
  const std::vector<std::string> names{"z \"ä\"", "z \"ä\".m1", "a", "none"};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(found.tensors[i].name, names[i]);
    EXPECT_EQ(found.tensors[i].type, safetensors_f32);
    EXPECT_EQ(found.tensors[i].shape, info.parameters[arrays[i].parameter].shape);
    EXPECT_EQ(found.tensors[i].offset, arrays[i].offset);
  }
}

TEST(Safetensors, RefusesWhatCannotBe) {
  const auto x = [](const std::string& shape, const std::string& offsets) {
    return "{" + tensor("x", "F32", shape, offsets) + "}";
  };
  ASSERT_EQ(refusal(file_of(x("[2]", "[0,8]"), 8)), "accepted");
  expect_refused(x("[2]", "[0,8]"), 7, "cut short");
  expect_refused(x("[2]", "[0,8]"), 9, "end at byte");
  expect_refused(x("[3]", "[0,8]"), 8, "takes 12 bytes");
  expect_refused(x("[2]", "[4,12]"), 12, "begins at byte 4");
  expect_refused(x("[2]", "[8,0]"), 8, "beginning and an end");
  expect_refused(x("[2]", "[0,8,8]"), 8, "beginning and an end");
  expect_refused(x("[2]", "8"), 8, "data_offsets is missing or of another kind");
  expect_refused(x("[2.0]", "[0,8]"), 8, "isn't an integer");
  expect_refused(x("[-2]", "[0,8]"), 8, "negative");
  expect_refused(x("[-2,-1]", "[0,8]"), 8, "negative");
  expect_refused(x("[\"2\"]", "[0,8]"), 8, "isn't an integer");
  expect_refused(x("[2,18446744073709551615]", "[0,8]"), 8, "isn't an integer");
  expect_refused(x("[4611686018427387904,4,2]", "[0,8]"), 8, "impossible");
  expect_refused(x("[2305843009213693952]", "[0,8]"), 8, "impossible");
  expect_refused(x("[2305843009213693951]", "[0,9223372036854775804]"), 8, "cut short");
  expect_refused(x("[1e999]", "[0,8]"), 8, "beyond");
  const std::string a = tensor("a", "F32", "[2]", "[0,8]");
  expect_refused("{" + a + "," + tensor("b", "F32", "[1]", "[4,8]") + "}", 8, "'b' begins");
  expect_refused("{" + a + "," + tensor("b", "F32", "[1]", "[12,16]") + "}", 16, "'b' begins");
  expect_refused("{" + a + "," + tensor("a", "F32", "[1]", "[8,12]") + "}", 12, "twice");
  expect_refused(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8,
                 "twice");
  expect_refused(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, "dtype is missing");
  expect_refused(R"({"a":["F32",[2],[0,8]]})", 8, "isn't described by an object");
  expect_refused(R"({"__metadata__":{"a":1}})", 0, "isn't a map of texts");
  expect_refused(R"({"__metadata__":"a"})", 0, "isn't a map of texts");
  expect_refused("{\"a\xff\":1}", 0, "isn't JSON");
  expect_refused("{\"\\ud800\":1}", 0, "isn't JSON");
  expect_refused("{} {}", 0, "isn't JSON");
  expect_refused(std::string("{}\0", 3), 0, "zero");
  expect_refused("[]", 0, "begin with '{'");
  expect_refused("", 0, "begin with '{'");
  expect_refused(" {}", 0, "begin with '{'");
}

TEST(Safetensors, RefusesWhatIsTooMuch) {
  const std::size_t deep = 1 << 20;
  const std::string nested = std::string(deep, '[') + std::string(deep, ']');
  expect_refused(R"({"a":)" + nested + "}", 0, "nested more than 16 deep");
  std::string many = R"({"a":[0)";
  for (int i = 0; i < 1 << 22; ++i) many += ",0";
  expect_refused(many + "]}", 0, "more than 4194304 values");
  EXPECT_NE(refusal("\xff\xff\xff\xff\xff\xff\xff\xff{}").find("18446744073709551615 bytes"),
            std::string::npos);
  EXPECT_NE(refusal(std::string("\x03\0\0\0\0\0\0\0{}", 10)).find("cut short"), std::string::npos);
  EXPECT_NE(refusal("{}").find("too few"), std::string::npos);
}

/// All that a reader acts on. The names and metadata are what they are.
std::vector<std::vector<std::int64_t>> places_in(const Safetensors& file) {
  std::vector<std::vector<std::int64_t>> places;
  for (const SafetensorsTensor& t : file.tensors) {
    places.push_back(t.shape);
    places.push_back({t.offset, t.bytes, t.type.bytes});
  }
  return places;
}

TEST(Safetensors, DamageIsRefusedOrChangesNoPlace) {
  const std::string good =
      file_of(R"({"__metadata__":{"format":"pt"},)" + tensor("a", "F32", "[2,3]", "[0,24]") + "," +
                  tensor("b.m1", "BF16", "[5]", "[24,34]") + "}  ",
              34);
  const auto places = places_in(read(good));
  const std::size_t header_end = good.size() - 34;
  int moved = 0;
  int refused = 0;
  for (std::size_t i = 0; i < header_end; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      try {
        const auto found = places_in(read(bad));
        moved += found != places ? 1 : 0;
      } catch (const CheckpointError&) {
        ++refused;
      }
    }
  }
  EXPECT_EQ(moved, 0);
  EXPECT_GT(refused, static_cast<int>(header_end) * 5);
  for (std::size_t bytes = 0; bytes < good.size(); ++bytes)
    EXPECT_NE(refusal(good.substr(0, bytes)), "accepted") << bytes;
  EXPECT_NE(refusal(good + 'v'), "accepted");
}

}  // namespace
}  // namespace shardmix::checkpoint
