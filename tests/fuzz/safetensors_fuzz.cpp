// The reader of safetensors headers. Where the first byte is odd, three bytes with the length of
// the values and a header's text follow, else a whole file.

#include "checkpoint/safetensors.hpp"

#include <nlohmann/json.hpp>

#include "fuzz/fuzz.hpp"
#include "shardmix/error.hpp"

namespace shardmix::fuzz {
namespace {

namespace fs = std::filesystem;
using checkpoint::Safetensors;
using checkpoint::SafetensorsTensor;

std::string with_length(std::string_view header) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes += header;
}

/// The header that says the same.
std::string header_of(const Safetensors& file, std::int64_t begin) {
  nlohmann::json header = nlohmann::json::object();
  header[checkpoint::safetensors_metadata_name] = file.metadata;
  for (const SafetensorsTensor& t : file.tensors) {
    header[t.name] = {{"dtype", t.type.name},
                      {"shape", t.shape},
                      {"data_offsets", {t.offset - begin, t.offset - begin + t.bytes}}};
  }
  return header.dump();
}

/// Compares with what a parser of JSON says of the header, and each tensor with the next.
void check(const Safetensors& file, std::string_view header, std::int64_t begin) {
  const auto json = nlohmann::json::parse(header);
  require(json.size() == file.tensors.size() + json.count(checkpoint::safetensors_metadata_name),
          "each tensor of the header is found");
  std::int64_t end = begin;
  for (const SafetensorsTensor& t : file.tensors) {
    const auto& entry = json.at(t.name);
    std::int64_t bytes = t.type.bytes;
    for (const std::int64_t extent : t.shape) bytes = extent == 0 ? 0 : bytes * extent;
    require(t.offset == end && t.bytes == bytes, "tensors follow each other");
    end += t.bytes;
    require(entry.at("shape") == t.shape && entry.at("dtype") == t.type.name &&
                entry.at("data_offsets") == std::vector{t.offset - begin, end - begin},
            "a tensor is as the header says");
  }
  require(end == file.file_bytes, "tensors fill the file");
}

void require_same(const Safetensors& a, std::int64_t a_begin, const Safetensors& b,
                  std::int64_t b_begin) {
  require(a.metadata == b.metadata && a.tensors.size() == b.tensors.size(),
          "a header that was read and written reads the same");
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    const SafetensorsTensor& s = a.tensors[i];
    const SafetensorsTensor& t = b.tensors[i];
    require(s.name == t.name && s.type == t.type && s.shape == t.shape && s.bytes == t.bytes &&
                s.offset - a_begin == t.offset - b_begin,
            "a tensor that was read and written reads the same");
  }
}

/// Puts the bytes in a file, with so many zeros behind.
fs::path place(std::string_view bytes, std::uintmax_t zeros) {
  static const Scratch scratch;
  scratch.write("file", bytes);
  const fs::path path = scratch.path() / "file";
  if (zeros > 0) fs::resize_file(path, bytes.size() + zeros);
  return path;
}

}  // namespace
}  // namespace shardmix::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace shardmix;
  fuzz::Input input(data, size);
  const bool is_header = input.byte() % 2 == 1;
  std::uintmax_t values = 0;
  for (int i = 0; is_header && i < 3; ++i) values = values << 8 | input.byte();
  const std::string bytes = is_header ? fuzz::with_length(input.rest()) : std::string(input.rest());
  checkpoint::Safetensors found;
  try {
    found = checkpoint::read_safetensors(fuzz::place(bytes, values));
  } catch (const CheckpointError&) {
    return 0;
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  const auto begin = static_cast<std::int64_t>(8 + length);
  fuzz::check(found, std::string_view(bytes).substr(8, length), begin);
  const std::string header = fuzz::header_of(found, begin);
  const auto values_bytes = static_cast<std::uintmax_t>(found.file_bytes - begin);
  fuzz::require_same(
      found, begin,
      checkpoint::read_safetensors(fuzz::place(fuzz::with_length(header), values_bytes)),
      static_cast<std::int64_t>(8 + header.size()));
  return 0;
}
