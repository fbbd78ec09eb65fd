#pragma once

#include <filesystem>
#include <string>

#include "checkpoint/safetensors.hpp"

namespace shardmix::cli {

/// What a safetensors file holds, as a page for people.
[[nodiscard]] std::string report_text(const std::filesystem::path& path,
                                      const checkpoint::Safetensors& file);

/// The same as one JSON object for programs.
[[nodiscard]] std::string report_json(const std::filesystem::path& path,
                                      const checkpoint::Safetensors& file);

}  // namespace shardmix::cli
