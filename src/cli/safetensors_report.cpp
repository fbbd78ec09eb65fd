#include "cli/safetensors_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/printable.hpp"
#include "train/format.hpp"

namespace shardmix::cli {
namespace {

using Json = nlohmann::ordered_json;
using checkpoint::SafetensorsTensor;

}  // namespace

std::string report_text(const std::filesystem::path& path, const checkpoint::Safetensors& file) {
  std::size_t name_width = 0;
  std::size_t shape_width = 0;
  for (const SafetensorsTensor& tensor : file.tensors) {
    name_width = std::max(name_width, printable(tensor.name).size());
    shape_width = std::max(shape_width, shape_text(tensor.shape).size());
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
                        tensor.type.name, shape_text(tensor.shape), shape_width,
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
