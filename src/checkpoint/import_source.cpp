#include "checkpoint/import_source.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <span>

#include "checkpoint/files.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

template <class T>
T value_in(const fs::path& path, std::int64_t offset) {
  std::array<std::byte, sizeof(T)> bytes{};
  File::open_to_read(path).read(offset, bytes);
  T value{};
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

}  // namespace

std::int64_t whole_step(double value, std::string_view what) {
  constexpr double most = 9007199254740992.0;  // above, a double skips numbers
  if (!(value >= 0.0 && value <= most && std::floor(value) == value)) {
    throw CheckpointError(
        fmt::format("the step of {} is {}, but must be a whole number of 0 or more", what, value));
  }
  return static_cast<std::int64_t>(value);
}

std::int64_t step_in(const SourceFile& file, const SafetensorsTensor& tensor) {
  const std::string what = fmt::format("the tensor '{}'", tensor.name);
  std::int64_t elements = 1;
  for (const std::int64_t extent : tensor.shape) elements *= extent;
  if (elements != 1) {
    throw CheckpointError(
        fmt::format("{} of '{}' is to hold a step, but has {} elements instead of one", what,
                    file.path.string(), elements));
  }
  const auto as_double = [&](auto value) { return whole_step(static_cast<double>(value), what); };
  if (tensor.type.name == "F32") return as_double(value_in<float>(file.path, tensor.offset));
  if (tensor.type.name == "F64") return as_double(value_in<double>(file.path, tensor.offset));
  if (tensor.type.name == "I32") return as_double(value_in<std::int32_t>(file.path, tensor.offset));
  if (tensor.type.name == "I64") return as_double(value_in<std::int64_t>(file.path, tensor.offset));
  throw CheckpointError(
      fmt::format("{} of '{}' is to hold a step, but has the dtype {}; expected F32, F64, I32 or "
                  "I64",
                  what, file.path.string(), tensor.type.name));
}

std::pair<SourceFile, Safetensors> open_source_file(const fs::path& path) {
  Safetensors found = read_safetensors(path);
  SourceFile file{.path = fs::canonical(path), .bytes = found.file_bytes};
  return {std::move(file), std::move(found)};
}

}  // namespace shardmix::checkpoint
