#include "fuzz/import_source.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <sstream>

#include "checkpoint/crc32.hpp"
#include "checkpoint/safetensors.hpp"

namespace shardmix::fuzz {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t most_bytes = 1 << 16;

template <class T>
T as(double value) {
  if (std::isnan(value)) return 0;
  constexpr double most =
      sizeof(T) == 8 ? 9e18 : static_cast<double>(std::numeric_limits<T>::max());
  constexpr auto least = static_cast<double>(std::numeric_limits<T>::min());
  return static_cast<T>(std::clamp(value, least, most));
}

template <class T>
std::string bytes_of(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

/// What the bits of a sign, an exponent and a fraction stand for.
template <int fraction_bits, int exponent_bits>
float widened(std::uint16_t bits) {
  constexpr int most = (1 << exponent_bits) - 1;
  const int exponent = bits >> fraction_bits & most;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const int whole = exponent == 0 ? fraction : fraction | 1 << fraction_bits;
  float size =
      std::ldexp(static_cast<float>(whole), std::max(exponent, 1) - most / 2 - fraction_bits);
  if (exponent == most) size = fraction == 0 ? INFINITY : NAN;
  return (bits & 0x8000) != 0 ? -size : size;
}

/// The bytes of an element; the tensor gets it as a number.
std::string element_of(DescribedTensor& tensor, double value) {
  if (tensor.dtype == "F32" || tensor.dtype == "F64") {
    const auto narrow = static_cast<float>(std::clamp(value, -1e38, 1e38));
    const float single = std::isfinite(value) ? narrow : static_cast<float>(value);
    tensor.values.push_back(single);
    return tensor.dtype == "F32" ? bytes_of(single) : bytes_of(value);
  }
  if (tensor.dtype == "F16" || tensor.dtype == "BF16") {
    const auto bits = as<std::uint16_t>(value);
    tensor.values.push_back(tensor.dtype == "F16" ? widened<10, 5>(bits) : widened<7, 8>(bits));
    return bytes_of(bits);
  }
  if (tensor.dtype == "I32") return bytes_of(as<std::int32_t>(value));
  if (tensor.dtype == "I64") return bytes_of(as<std::int64_t>(value));
  const auto* type = std::ranges::find(checkpoint::safetensors_types, tensor.dtype,
                                       &checkpoint::SafetensorsType::name);
  const bool is_known = type != checkpoint::safetensors_types.end();
  return std::string(is_known ? static_cast<std::size_t>(type->bytes) : 1, '\1');
}

/// The values; nothing where there would be too many.
std::optional<std::string> values_of(DescribedTensor& tensor, double value) {
  std::int64_t elements = 1;
  for (const std::int64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(elements, extent, &elements)) return std::nullopt;
  }
  if (elements < 0 || elements > most_bytes) return std::nullopt;
  std::string values;
  for (std::int64_t i = 0; i < elements; ++i)
    values += element_of(tensor, value + static_cast<double>(i % 64));
  return values;
}

/// Its value is returned.
double describe(std::istringstream& words, DescribedTensor& tensor) {
  double value = 1.0;
  words >> tensor.dtype;
  for (std::string word; words >> word;) {
    std::int64_t extent = 0;
    if (word.front() == '=')
      value = std::strtod(word.c_str() + 1, nullptr);
    else if (std::from_chars(word.data(), word.data() + word.size(), extent).ec == std::errc())
      tensor.shape.push_back(extent);
  }
  return value;
}

}  // namespace

DescribedFile write_described(const Scratch& scratch, const std::string& name,
                              std::string_view lines) {
  DescribedFile file{.name = name};
  Json header = Json::object();
  std::string values;
  std::istringstream input{std::string(lines)};
  for (std::string line; std::getline(input, line);) {
    std::istringstream words(line);
    std::string key;
    words >> key;
    if (key.starts_with('@')) {
      std::string text;
      std::getline(words >> std::ws, text);
      header["__metadata__"][key.substr(1)] = text;
      continue;
    }
    // As JSON has it: a name that isn't UTF-8 gets marks of replacement.
    key = Json::parse(Json(key).dump(-1, ' ', false, Json::error_handler_t::replace));
    if (header.contains(key)) continue;
    DescribedTensor tensor;
    const double value = describe(words, tensor);
    const std::optional<std::string> more = values_of(tensor, value);
    const std::size_t begin = values.size();
    if (more && values.size() + more->size() <= most_bytes) values += *more;
    header[key] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, values.size()}}};
    file.tensors.emplace(key, std::move(tensor));
  }
  const std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string bytes = bytes_of(static_cast<std::uint64_t>(text.size())) + text + values;
  scratch.write(name, bytes);
  file.bytes = std::ssize(bytes);
  file.crc32 = checkpoint::crc32(std::as_bytes(std::span(bytes)));
  return file;
}

std::string fitted(const std::string& sidecar, const std::vector<DescribedFile>& files,
                   bool with_checksums) {
  Json json = Json::parse(sidecar, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("files") || !json["files"].is_array()) return sidecar;
  for (Json& entry : json["files"]) {
    for (const DescribedFile& file : files) {
      if (!entry.is_object() || !entry.contains("name") || entry["name"] != file.name) continue;
      std::array<char, 9> digits{};
      std::snprintf(digits.data(), digits.size(), "%08x", file.crc32);
      if (entry.contains("bytes")) entry["bytes"] = file.bytes;
      if (with_checksums && entry.contains("crc32")) entry["crc32"] = digits.data();
    }
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shardmix::fuzz
