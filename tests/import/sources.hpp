#pragma once

/// Files of tensors, as other programs would have written them.

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace shardmix::testing {

struct NamedTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

inline NamedTensor f32(const std::string& name, const std::vector<std::int64_t>& shape,
                       const std::vector<float>& values) {
  return {name, "F32", shape, bytes_of(values)};
}

inline void write_tensors(const std::filesystem::path& path,
                          const std::vector<NamedTensor>& tensors,
                          const nlohmann::json& metadata = {}) {
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string values;
  for (const NamedTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {values.size(), values.size() + tensor.bytes.size()}}};
    values += tensor.bytes;
  }
  const std::string text = header.dump();
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 255);
  std::ofstream(path, std::ios::binary) << length << text << values;
}

}  // namespace shardmix::testing
