#include "cli/safetensors_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "train/format.hpp"

namespace shardmix::cli {
namespace {

using Json = nlohmann::ordered_json;
using checkpoint::SafetensorsTensor;

/// A text of the file's, without what a terminal would obey.
std::string printable(const std::string& text) {
  const bool is_plain = std::ranges::none_of(
      text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return is_plain ? text : Json(text).dump(-1, ' ', /*ensure_ascii=*/true);
}

/// "2 x 3", "scalar".
std::string shape_text(const SafetensorsTensor& tensor) {
  return tensor.shape.empty() ? "scalar" : fmt::format("{}", fmt::join(tensor.shape, " x "));
}

}  // namespace

std::string report_text(const std::filesystem::path& path, const checkpoint::Safetensors& file) {
  std::size_t name_width = 0;
  std::size_t shape_width = 0;
  for (const SafetensorsTensor& tensor : file.tensors) {
    name_width = std::max(name_width, printable(tensor.name).size());
    shape_width = std::max(shape_width, shape_text(tensor).size());
  }
  name_width = std::min<std::size_t>(name_width, 64);
  shape_width = std::min<std::size_t>(shape_width, 32);
  std::string text =
      fmt::format("{:<14}{}, {}\n", "file", path.string(), train::format_bytes(file.file_bytes));
  if (!file.metadata.empty()) text += "metadata\n";
  for (const auto& [name, value] : file.metadata)
    text += fmt::format("  {} {}\n", printable(name), printable(value));
  text += fmt::format("{:<14}{}\n", "tensors", file.tensors.size());
  for (const SafetensorsTensor& tensor : file.tensors) {
    text += fmt::format("  {:<{}}  {:<7}  {:<{}}  {:>10}\n", printable(tensor.name), name_width,
                        tensor.type.name, shape_text(tensor), shape_width,
                        train::format_bytes(tensor.bytes));
  }
  return text;
}

std::string report_json(const std::filesystem::path& path, const checkpoint::Safetensors& file) {
  Json json{{"file", path.string()},
            {"bytes", file.file_bytes},
            {"metadata", file.metadata},
            {"tensors", Json::array()}};
  for (const SafetensorsTensor& tensor : file.tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"dtype", tensor.type.name},
                               {"shape", tensor.shape},
                               {"offset", tensor.offset},
                               {"bytes", tensor.bytes}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace shardmix::cli
