#include "checkpoint/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "checkpoint/bounded_json.hpp"
#include "checkpoint/files.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// The header's text, whose length is all that may be wrong yet.
std::string read_header(const File& file, std::int64_t file_bytes) {
  if (file_bytes < safetensors_length_bytes) {
    throw CheckpointError(
        fmt::format("it has {} bytes, too few for the 8 of its header's length", file_bytes));
  }
  std::array<std::byte, safetensors_length_bytes> prefix{};
  file.read(0, prefix);
  std::uint64_t length = 0;
  for (std::size_t i = prefix.size(); i-- > 0;)
    length = length << 8 | std::to_integer<std::uint64_t>(prefix[i]);
  if (length > static_cast<std::uint64_t>(most_safetensors_header)) {
    throw CheckpointError(fmt::format("its header would have {} bytes, but at most {} are allowed",
                                      length, most_safetensors_header));
  }
  if (length > static_cast<std::uint64_t>(file_bytes - safetensors_length_bytes)) {
    throw CheckpointError(
        fmt::format("its header would have {} bytes, but the file only has {}; it is cut short",
                    length, file_bytes));
  }
  std::string header(static_cast<std::size_t>(length), '\0');
  file.read(safetensors_length_bytes, std::as_writable_bytes(std::span(header)));
  if (!header.starts_with('{')) throw CheckpointError("its header doesn't begin with '{'");
  return header;
}

const Json& member(const Json& entry, const std::string& tensor, const char* key,
                   Json::value_t type) {
  const auto found = entry.find(key);
  if (found == entry.end() || found->type() != type) {
    throw CheckpointError(
        fmt::format("of the tensor '{}' the {} is missing or of another kind", tensor, key));
  }
  return *found;
}

SafetensorsType type_named(const std::string& name, const std::string& tensor) {
  const auto* found = std::ranges::find(safetensors_types, name, &SafetensorsType::name);
  if (found != safetensors_types.end()) return *found;
  std::string known;
  for (const SafetensorsType& type : safetensors_types) known += fmt::format(" {}", type.name);
  throw CheckpointError(
      fmt::format("the tensor '{}' has the dtype '{}', which isn't known; expected one of{}",
                  tensor, name, known));
}

/// A list of integers, none negative.
std::vector<std::int64_t> counts_in(const Json& entry, const std::string& tensor, const char* key) {
  const std::string what = fmt::format("of the tensor '{}' a number in {}", tensor, key);
  std::vector<std::int64_t> counts;
  for (const Json& value : member(entry, tensor, key, Json::value_t::array)) {
    const std::int64_t count = integer_of(value, what);
    if (count < 0) throw CheckpointError(fmt::format("{} is negative: {}", what, count));
    counts.push_back(count);
  }
  return counts;
}

/// What the shape and the type make.
std::int64_t bytes_of(const SafetensorsTensor& tensor) {
  std::int64_t bytes = 1;
  bool fits = true;
  for (const std::int64_t extent : tensor.shape)
    fits = fits && !__builtin_mul_overflow(bytes, extent, &bytes);
  if (!fits || __builtin_mul_overflow(bytes, tensor.type.bytes, &bytes))
    throw CheckpointError(fmt::format("the shape of the tensor '{}' is impossible", tensor.name));
  return bytes;
}

/// As the header says it: the offset is from the header's end, and may be anything.
SafetensorsTensor tensor_from(const std::string& name, const Json& entry) {
  if (!entry.is_object())
    throw CheckpointError(fmt::format("the tensor '{}' isn't described by an object", name));
  const auto& type = member(entry, name, "dtype", Json::value_t::string);
  SafetensorsTensor tensor{.name = name,
                           .type = type_named(type.get_ref<const std::string&>(), name),
                           .shape = counts_in(entry, name, "shape")};
  const std::vector<std::int64_t> offsets = counts_in(entry, name, "data_offsets");
  if (offsets.size() != 2 || offsets[1] < offsets[0]) {
    throw CheckpointError(
        fmt::format("the data_offsets of the tensor '{}' aren't a beginning and an end", name));
  }
  tensor.offset = offsets[0];
  tensor.bytes = offsets[1] - offsets[0];
  if (const std::int64_t expected = bytes_of(tensor); tensor.bytes != expected) {
    throw CheckpointError(
        fmt::format("the tensor '{}' takes {} bytes by its shape and dtype, but "
                    "its data_offsets give it {}",
                    name, expected, tensor.bytes));
  }
  return tensor;
}

std::map<std::string, std::string> metadata_from(const Json& entry) {
  const bool is_map =
      entry.is_object() &&
      std::all_of(entry.begin(), entry.end(), [](const Json& value) { return value.is_string(); });
  if (!is_map)
    throw CheckpointError(fmt::format("its {} isn't a map of texts", safetensors_metadata_name));
  return entry.get<std::map<std::string, std::string>>();
}

/// Gives the tensors, in their order, their offsets in the file, which they must fill.
void place(std::vector<SafetensorsTensor>& tensors, std::int64_t begin, std::int64_t file_bytes) {
  std::ranges::stable_sort(tensors, {}, [](const SafetensorsTensor& tensor) {
    return std::pair(tensor.offset, tensor.bytes);
  });
  std::int64_t end = begin;
  for (SafetensorsTensor& tensor : tensors) {
    if (tensor.offset != end - begin) {
      throw CheckpointError(
          fmt::format("the tensor '{}' begins at byte {} of the values, but the one before it ends "
                      "at byte {}",
                      tensor.name, tensor.offset, end - begin));
    }
    if (tensor.bytes > file_bytes - end) {
      throw CheckpointError(
          fmt::format("the tensor '{}' ends behind the file's {} bytes; it is cut short",
                      tensor.name, file_bytes));
    }
    tensor.offset = end;
    end += tensor.bytes;
  }
  if (end != file_bytes) {
    throw CheckpointError(
        fmt::format("its tensors end at byte {}, but it has {} bytes", end, file_bytes));
  }
}

Safetensors header_of(const File& file) {
  Safetensors found{.file_bytes = file.size()};
  const std::string header = read_header(file, found.file_bytes);
  const Json json = parse_bounded<Json>(header);
  for (const auto& [name, entry] : json.items()) {
    if (name == safetensors_metadata_name)
      found.metadata = metadata_from(entry);
    else
      found.tensors.push_back(tensor_from(name, entry));
  }
  place(found.tensors, safetensors_length_bytes + std::ssize(header), found.file_bytes);
  return found;
}

}  // namespace

Safetensors read_safetensors(const fs::path& path) {
  // Files that others keep in stores of their own are often reached by links.
  std::error_code missing;
  const fs::path target = fs::canonical(path, missing);
  const File file = File::open_to_read(missing ? path : target);
  try {
    return header_of(file);
  } catch (const CheckpointError& error) {
    throw CheckpointError(
        fmt::format("'{}' can't be used as a safetensors file: {}; get or write it anew",
                    path.string(), error.what()));
  }
}

}  // namespace shardmix::checkpoint
