#pragma once

/// The header of a safetensors file: which tensors it has, and where. The format is 8 bytes of the
/// header's length (little-endian), the header (JSON), the values, little-endian, in row-major
/// order: https://github.com/huggingface/safetensors. Whatever has its rules broken is refused.

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace shardmix::checkpoint {

/// A type of elements.
struct SafetensorsType {
  std::string_view name;
  std::int64_t bytes;
  friend bool operator==(const SafetensorsType&, const SafetensorsType&) = default;
};
inline constexpr SafetensorsType safetensors_f32{"F32", 4};
inline constexpr std::array safetensors_types{
    SafetensorsType{"BOOL", 1},    SafetensorsType{"U8", 1},      SafetensorsType{"I8", 1},
    SafetensorsType{"F8_E5M2", 1}, SafetensorsType{"F8_E4M3", 1}, SafetensorsType{"I16", 2},
    SafetensorsType{"U16", 2},     SafetensorsType{"F16", 2},     SafetensorsType{"BF16", 2},
    SafetensorsType{"I32", 4},     SafetensorsType{"U32", 4},     safetensors_f32,
    SafetensorsType{"F64", 8},     SafetensorsType{"I64", 8},     SafetensorsType{"U64", 8}};

/// What all readers accept.
inline constexpr std::int64_t most_safetensors_header = 100'000'000;
/// The header's own length, before it.
inline constexpr std::int64_t safetensors_length_bytes = 8;
/// The member of the header that is no tensor, but a map of texts.
inline constexpr const char* safetensors_metadata_name = "__metadata__";

struct SafetensorsTensor {
  std::string name = {};
  SafetensorsType type = safetensors_f32;
  std::vector<std::int64_t> shape = {};  ///< empty: a scalar
  std::int64_t offset = 0;               ///< of its first byte in the file
  std::int64_t bytes = 0;
};

/// What a file tells of itself.
struct Safetensors {
  std::vector<SafetensorsTensor> tensors = {};  ///< in the order of their values
  std::map<std::string, std::string> metadata = {};
  std::int64_t file_bytes = 0;
};

/// Reads the header; the values follow each other without holes from its end to the file's. The
/// path may be a link. Throws CheckpointError that names the file.
[[nodiscard]] Safetensors read_safetensors(const std::filesystem::path& path);

}  // namespace shardmix::checkpoint
