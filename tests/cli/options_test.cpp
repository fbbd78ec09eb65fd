#include "cli/options.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/setters.hpp"
#include "cli/train_options.hpp"
#include "shardmix/error.hpp"
#include "shardmix/presets.hpp"

namespace shardmix::cli {
namespace {

using train::TrainOptions;
using Arguments = std::vector<std::string>;

TrainOptions parse(const Arguments& arguments) {
  TrainOptions options;
  EXPECT_EQ(parse_options(arguments, train_option_groups(options)), Request::run);
  return options;
}

std::string error_of(const Arguments& arguments) {
  try {
    (void)parse(arguments);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

/// A configuration file, gone at the end of the test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text)
      : path_(std::filesystem::temp_directory_path() /
              ("shardmix-" + std::to_string(getpid()) + ".ini")) {
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  ConfigFile(const ConfigFile&) = delete;
  ConfigFile& operator=(const ConfigFile&) = delete;

  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

TEST(ParseOptions, NothingLeavesTheDefaults) {
  EXPECT_EQ(parse({}), TrainOptions{});
}

TEST(ParseOptions, ReadsValuesBesideAndBehindTheName) {
  const TrainOptions options = parse({"--text", "a b.txt", "--steps=7", "--lr", "3e-4", "--beta3",
                                      "0.99", "--optimizer", "adamw", "--dtype", "bf16"});
  EXPECT_EQ(options.text, "a b.txt");
  EXPECT_EQ(options.steps, 7);
  EXPECT_EQ(options.rule.lr, 3e-4);
  EXPECT_EQ(options.rule.beta3, 0.99);
  EXPECT_EQ(options.rule.name, "adamw");
  EXPECT_EQ(options.dtype, bf16);
}

TEST(ParseOptions, AutoUnsetsAndTheLastOneWins) {
  EXPECT_EQ(parse({"--beta3", "0.99", "--beta3", "auto"}).rule.beta3, std::nullopt);
  EXPECT_EQ(parse({"--steps", "5", "--steps", "6"}).steps, 6);
}

TEST(ParseOptions, EveryScheduleShapeHasItsName) {
  for (const ShapeInfo& info : schedule_shapes) {
    EXPECT_EQ(parse({"--lr-schedule", std::string(info.name)}).rule.lr_shape, info.shape);
  }
  EXPECT_EQ(error_of({"--lr-schedule", "step"}),
            "--lr-schedule is 'step', but must be one of auto, constant, linear, cosine, wsd, "
            "wsd-sqrt, inverse-sqrt");
  EXPECT_EQ(parse({"--lr-schedule", "wsd", "--lr-schedule", "auto"}).rule.lr_shape, std::nullopt);
}

TEST(ParseOptions, EveryRuleAndPrecisionHasItsName) {
  for (const Rule& rule : all_rules()) {
    EXPECT_EQ(parse({"--optimizer", std::string(name_of(rule))}).rule.name, name_of(rule));
  }
  EXPECT_EQ(error_of({"--optimizer", "adam"}),
            "--optimizer is 'adam', but must be one of ademamix, adamw, simplified-ademamix, lion");
  for (const DType dtype : all_dtypes) {
    EXPECT_EQ(parse({"--dtype", std::string(name_of(dtype))}).dtype, dtype);
  }
  EXPECT_EQ(parse({"--master", "full"}).master, Master::full);
  EXPECT_EQ(parse({"--master", "none"}).master, Master::none);
  EXPECT_EQ(parse({"--state", "compact"}).state, StateFormat::compact);
}

TEST(ParseOptions, EveryPresetHasItsName) {
  for (const Preset& preset : presets()) {
    EXPECT_EQ(parse({"--preset", std::string(preset.name)}).rule.preset, preset.name);
  }
  EXPECT_EQ(parse({"--preset", "apertus", "--preset", "none"}).rule.preset, "");
  EXPECT_NE(error_of({"--preset", "paper"}).find("must be one of none, paper-110m"),
            std::string::npos);
  const ConfigFile file("preset = switch-1.3b\n");
  EXPECT_EQ(parse({"--config", file.path()}).rule.preset, "switch-1.3b");
}

TEST(ParseOptions, M2StartsAtZeroOrFromM1) {
  EXPECT_EQ(parse({"--switch-m2", "from-m1"}).rule.switch_m2, M2Start::from_m1);
  EXPECT_EQ(parse({"--switch-m2", "zero"}).rule.switch_m2, M2Start::zero);
  EXPECT_EQ(error_of({"--switch-m2", "m1"}),
            "--switch-m2 is 'm1', but must be one of zero, from-m1");
}

TEST(ParseOptions, NegativeNumbersAreValues) {
  EXPECT_EQ(parse({"--lr", "-1"}).rule.lr, -1.0);
  EXPECT_EQ(parse({"--steps", "-3"}).steps, -3);
}

TEST(ParseOptions, HelpWinsOverEverything) {
  TrainOptions options;
  for (const Arguments& arguments : {Arguments{"--help"}, Arguments{"--nonsense", "--help"}}) {
    EXPECT_EQ(parse_options(arguments, train_option_groups(options)), Request::help);
  }
}

TEST(ParseOptions, ErrorsNameTheOptionAndTheValue) {
  EXPECT_EQ(error_of({"--btch", "3"}), "there is no option --btch; did you mean --batch?");
  EXPECT_EQ(error_of({"--qqqqq=3"}), "there is no option --qqqqq");
  EXPECT_EQ(error_of({"--steps", "many"}), "--steps is 'many', but must be a whole number");
  EXPECT_EQ(error_of({"--steps", "1.5"}), "--steps is '1.5', but must be a whole number");
  EXPECT_EQ(error_of({"--lr", "1e-3x"}), "--lr is '1e-3x', but must be a number");
  EXPECT_EQ(error_of({"--seed", "-1"}), "--seed is '-1', but must be a whole number of 0 or more");
  EXPECT_EQ(error_of({"--steps", "99999999999999999999"}),
            "--steps is '99999999999999999999', which is too large");
  EXPECT_EQ(error_of({"--dtype", "fp8"}), "--dtype is 'fp8', but must be one of fp32, bf16, fp16");
  EXPECT_NE(error_of({"--steps"}).find("--steps"), std::string::npos);
  EXPECT_NE(error_of({"book.txt"}).find("'book.txt' is no option"), std::string::npos);
  EXPECT_NE(error_of({"-n", "3"}).find("'-n'"), std::string::npos);
}

TEST(ConfigFileOptions, AreReadAndArgumentsWin) {
  const ConfigFile file("# a run\nsteps = 50\nbatch = 4  # of all ranks\nlr = 0.25\n");
  const TrainOptions options = parse({"--batch", "8", "--config", file.path()});
  EXPECT_EQ(options.steps, 50);
  EXPECT_EQ(options.batch, 8);
  EXPECT_EQ(options.rule.lr, 0.25);
}

TEST(ConfigFileOptions, ErrorsNameTheFileAndTheKey) {
  for (const char* text :
       {"stepz = 50\n", "[stepz]\nsteps = 3\n", "config = other.ini\nstepz=1\n"}) {
    const ConfigFile file(text);
    const std::string error = error_of({"--config", file.path()});
    EXPECT_NE(error.find(file.path()), std::string::npos) << error;
    EXPECT_NE(error.find("unknown key"), std::string::npos) << error;
  }
  for (const char* text : {"steps = soon\n", "steps = 1\nsteps = 2\n", "steps\n"}) {
    const ConfigFile file(text);
    const std::string error = error_of({"--config", file.path()});
    EXPECT_NE(error.find(file.path()), std::string::npos) << error;
    EXPECT_NE(error.find("steps"), std::string::npos) << error;
  }
  EXPECT_NE(error_of({"--config", "/nowhere.ini"}).find("/nowhere.ini"), std::string::npos);
}

TEST(TrainOptionGroups, EveryOptionIsDocumented) {
  TrainOptions options;
  for (const OptionGroup& group : train_option_groups(options)) {
    for (const Option& option : group.options) {
      EXPECT_FALSE(option.value.empty()) << option.name;
      const bool tells_default = option.help.find("default") != std::string::npos;
      EXPECT_TRUE(tells_default || option.name == "text") << option.name;
    }
  }
}

TEST(ParseOptions, TellsOperandsFromOptionsAndFlags) {
  std::vector<std::string> names;
  bool is_set = false;
  bool is_not_set = false;
  const OptionGroup group{
      .title = "Options",
      .options = {list("names", "NAMES", "with commas", names), flag("set", "is", is_set),
                  flag("unset", "isn't", is_not_set)}};
  std::vector<std::string> operands;
  EXPECT_EQ(
      parse_options({"a b", "--names", "x,,y", "--set", "c", "--", "--unset"}, group, operands),
      Request::run);
  EXPECT_EQ(operands, (std::vector<std::string>{"a b", "c", "--unset"}));
  EXPECT_EQ(names, (std::vector<std::string>{"x", "", "y"}));
  EXPECT_TRUE(is_set);
  EXPECT_FALSE(is_not_set);
  EXPECT_THROW((void)parse_options({"--set=1"}, group, operands), ConfigError);
  EXPECT_THROW((void)parse_options({"--config", "x.ini"}, group, operands), ConfigError);
  EXPECT_EQ(parse_options({"--set", "--help"}, group, operands), Request::help);
  EXPECT_NE(describe_options(group).find("--set  "), std::string::npos) << describe_options(group);
}

}  // namespace
}  // namespace shardmix::cli
