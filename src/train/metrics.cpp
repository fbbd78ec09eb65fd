#include "train/metrics.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "shardmix/error.hpp"

namespace shardmix::train {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void fail(const std::filesystem::path& path) {
  throw Error(fmt::format("the metrics file {} can't be written: {}", path.string(),
                          std::generic_category().message(errno)));
}

bool belongs_to_steps(const std::string& line, std::int64_t last) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  // A line that a crash cut short is no JSON.
  return json.is_object() && json.contains("step") && json["step"].is_number_integer() &&
         json["step"].get<std::int64_t>() <= last;
}

void drop_steps_after(const std::filesystem::path& path, std::int64_t last) {
  std::ifstream old_file(path);
  if (!old_file) return;
  std::filesystem::path kept_path = path;
  kept_path += ".kept";
  {
    std::ofstream kept(kept_path, std::ios::trunc);
    for (std::string line; std::getline(old_file, line);) {
      if (belongs_to_steps(line, last)) kept << line << '\n';
    }
    if (!kept.flush()) fail(kept_path);
  }
  std::error_code error;
  std::filesystem::rename(kept_path, path, error);
  if (error) {
    throw Error(
        fmt::format("the metrics file {} can't be replaced: {}", path.string(), error.message()));
  }
}

}  // namespace

std::string to_json_line(const StepMetrics& metrics) {
  const StepReport& report = metrics.report;
  Json json{
      {"step", report.step},
      {"loss", metrics.loss},
      {"lr", report.lr},
      {"alpha", report.alpha},
      {"beta3", report.beta3},
      {"gradient_norm", report.gradient_norm},
      {"clip_scale", report.clip_scale},
      {"loss_scale", report.loss_scale},
      {"skipped", report.skipped},
      {"reason", report.reason},
      {"tokens_per_second", metrics.tokens_per_second},
  };
  if (metrics.held_out_loss) json["held_out_loss"] = *metrics.held_out_loss;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

MetricsFile::MetricsFile(std::filesystem::path path, std::int64_t steps_done)
    : path_(std::move(path)) {
  drop_steps_after(path_, steps_done);
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(path_);
}

MetricsFile::~MetricsFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MetricsFile::append(const StepMetrics& metrics) {
  const std::string line = to_json_line(metrics) + '\n';
  if (::write(descriptor_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    fail(path_);
  }
}

}  // namespace shardmix::train
