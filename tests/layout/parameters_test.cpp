#include "shardmix/parameters.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "layout/utf8.hpp"
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
  constexpr std::int64_t huge = std::int64_t{1} << 32;
  EXPECT_THROW(parameters.add("b", {huge, huge}, fp32), ConfigError);
  EXPECT_THROW(parameters.add("b", {huge, huge, 0}, fp32), ConfigError);
  EXPECT_THROW(parameters.add("b\xff", {1}, fp32), ConfigError);
  EXPECT_THROW(parameters.tie("b\xff", "a"), ConfigError);
  EXPECT_THROW(parameters.add("b", {1}, fp32, {.lr_scale = -1.0}), ConfigError);
  EXPECT_THROW(parameters.add("b", {1}, fp32, {.weight_decay = std::nan("")}), ConfigError);
  EXPECT_THROW(parameters.tie("a", "a"), ConfigError);
  EXPECT_THROW(parameters.tie("b", "missing"), ConfigError);
  EXPECT_EQ(parameters.size(), 1u);
}

/// The ends of the ranges of table 3-7 in the Unicode standard, and what lies beside them.
TEST(Utf8, IsToldFromOtherBytes) {
  for (const char* text :
       {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "a\xc3\xa9z"})
    EXPECT_TRUE(layout::is_utf8(text)) << layout::in_ascii(text);
  for (const char* text :
       {"\x80", "\xbf", "\xc1\xbf", "\xc2", "\xc2z", "\xc2\xc2", "\xe0\x9f\xbf", "\xe0\xa0",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xf8\x88\x80\x80\x80", "\xff", "a\xe9z"})
    EXPECT_FALSE(layout::is_utf8(text)) << layout::in_ascii(text);
  EXPECT_TRUE(layout::is_utf8(std::string_view("\0", 1)));
  EXPECT_EQ(layout::in_ascii("a\xc3\xa9\n"), "a???");
}

}  // namespace
}  // namespace shardmix
