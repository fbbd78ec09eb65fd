#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/exporter.hpp"
#include "cli/checkpoint_tools.hpp"
#include "cli/progress_line.hpp"
#include "cli/setters.hpp"
#include "shardmix/error.hpp"
#include "train/format.hpp"

namespace shardmix::cli {
namespace {

using checkpoint::ExportFormat;

constexpr Tool exporting{.name = "export",
                         .help = R"(Usage: shardmix checkpoint export PATH --output FILE [options]

Writes the values of a checkpoint into one file that other programs read, in fp32. PATH is a
checkpoint's directory, or a run's, for its newest one. The checksums of all that is read are verified.
FILE gets its name when it is complete.

  hdf5          a dataset /parameters/NAME/STATE for each state of each parameter
  safetensors   a tensor NAME of master weights, and NAME.m1, NAME.m2, NAME.v

{}
Examples:
  shardmix checkpoint export run --output model.safetensors --states master
  shardmix checkpoint export run/step_000012000 --output all.h5

Exit codes: 0 done; 1 the checkpoint is damaged, or the file can't be written; 2 an option makes no sense.
)",
                         .paths = 1,
                         .needs = "a checkpoint's or a run's directory"};

/// What --format says, or else the file's name.
ExportFormat format_of(const std::string& format, const std::string& output) {
  const std::string extension = std::filesystem::path(output).extension().string();
  if (format == "hdf5" || (format == "auto" && (extension == ".h5" || extension == ".hdf5")))
    return ExportFormat::hdf5;
  if (format == "safetensors" || (format == "auto" && extension == ".safetensors"))
    return ExportFormat::safetensors;
  throw ConfigError(fmt::format(
      "'{}' (--output) ends neither in .h5 or .hdf5 nor in .safetensors: say --format hdf5 or "
      "--format safetensors",
      output));
}

std::string json_of(const checkpoint::ExportResult& result, const std::string& output) {
  const nlohmann::ordered_json json{{"checkpoint", result.info.directory.string()},
                                    {"step", result.info.clocks.step},
                                    {"output", output},
                                    {"arrays", result.arrays},
                                    {"bytes", result.bytes}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n';
}

}  // namespace

int export_tool(const Arguments& arguments) {
  std::string output;
  std::string format = "auto";
  checkpoint::ExportOptions chosen;
  bool json = false;
  const OptionGroup options{
      .title = "Options",
      .options = {
          text("output", "FILE", "the file to write", output),
          choice<std::string>("format", "auto goes by the file's ending: .h5, .hdf5, .safetensors",
                              format,
                              {{"auto", "auto"}, {"hdf5", "hdf5"}, {"safetensors", "safetensors"}}),
          list("states", "NAMES", "with commas, of master, m1, m2, v (default: all that it has)",
               chosen.states),
          flag("force", "replace FILE if it is there", chosen.may_replace),
          flag("json", "tell what was written as one JSON object", json)}};
  const auto paths = read_paths(exporting, arguments, options);
  if (!paths) return 0;
  if (output.empty()) throw ConfigError("checkpoint export needs --output FILE, the file to write");
  chosen.format = format_of(format, output);
  std::optional<checkpoint::ExportResult> result;
  {
    ProgressLine line("exporting");
    result = checkpoint::export_checkpoint(paths->front(), output, chosen, line.callback());
  }
  print(json ? json_of(*result, output)
             : fmt::format("{}: {} arrays of step {}, {}\n", output, result->arrays,
                           result->info.clocks.step, train::format_bytes(result->bytes)));
  return 0;
}

}  // namespace shardmix::cli
