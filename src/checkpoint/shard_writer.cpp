#include "checkpoint/shard_writer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "checkpoint/files.hpp"
#include "checkpoint/hashes.hpp"
#include "checkpoint/hdf5_file.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// The disk is told to begin after so many bytes.
constexpr std::int64_t write_out_bytes = std::int64_t{8} << 20;
/// HDF5 leaves less than this between two arrays.
constexpr std::int64_t largest_gap = 8192;

CheckpointArray index_array(Hdf5File& hdf5, const char* name, const std::vector<IndexRow>& rows) {
  const auto offset = hdf5.make_dataset(name, H5T_NATIVE_INT64, {rows.size(), 4},
                                        rows.empty() ? nullptr : rows.data());
  return {.name = name,
          .offset = offset.value_or(0),
          .bytes = std::ssize(rows) * static_cast<std::int64_t>(sizeof(IndexRow))};
}

/// All values lie behind everything else, in their order, without gaps that could hold something.
void require_order(const fs::path& path, const CheckpointFile& file) {
  std::int64_t end = file.head_bytes;
  bool as_expected = file.head_bytes % 4 == 0;
  for (const CheckpointArray& a : file.arrays) {
    if (a.bytes == 0) continue;
    const bool is_index = a.name == index_name || a.name == frozen_index_name;
    as_expected &= is_index ? a.offset + a.bytes <= file.head_bytes
                            : a.offset >= end && a.offset - end < largest_gap && a.offset % 4 == 0;
    if (!is_index) end = a.offset + a.bytes;
  }
  if (as_expected && file.bytes - end < largest_gap) return;
  throw CheckpointError(
      fmt::format("this version of HDF5 laid '{}' out in a way that shardmix doesn't know; 1.10 is "
                  "known to work",
                  path.string()));
}

/// Makes the file with all but its values.
CheckpointFile make_structures(const fs::path& path, const ShardContents& contents) {
  CheckpointFile file{.name = path.filename().string()};
  Hdf5File hdf5 = Hdf5File::create(path);
  file.arrays.push_back(index_array(hdf5, index_name, contents.rows));
  if (contents.arrays.back().name == frozen_value_name) {
    hdf5.make_group("/frozen");
    file.arrays.push_back(index_array(hdf5, frozen_index_name, contents.frozen_rows));
  }
  hdf5.make_group("/state");
  file.head_bytes = std::numeric_limits<std::int64_t>::max();
  for (const ShardContents::Array& array : contents.arrays) {
    const auto offset = hdf5.make_dataset(array.name.c_str(), H5T_NATIVE_FLOAT,
                                          {static_cast<hsize_t>(array.elements)});
    file.arrays.push_back(
        {.name = array.name, .offset = offset.value_or(0), .bytes = 4 * array.elements});
    if (offset) file.head_bytes = std::min(file.head_bytes, *offset);
  }
  hdf5.close();
  file.bytes = (File::open_to_read(path).size() + 3) / 4 * 4;
  for (const CheckpointArray& a : file.arrays)
    file.bytes = std::max(file.bytes, a.offset + a.bytes);
  file.head_bytes = std::min(file.head_bytes, file.bytes);
  for (CheckpointArray& a : file.arrays) {
    if (a.bytes == 0) a.offset = file.head_bytes;
  }
  require_order(path, file);
  return file;
}

/// What the file has from `offset` on; zeros where no array is.
void fill(const CheckpointFile& file, const ShardSource& source, std::int64_t offset,
          std::span<std::byte> bytes) {
  std::memset(bytes.data(), 0, bytes.size());
  const std::size_t values = source.contents().arrays.size();
  const std::size_t first_value = file.arrays.size() - values;
  for (std::size_t i = 0; i < values; ++i) {
    const CheckpointArray& array = file.arrays[first_value + i];
    const std::int64_t begin = std::max(offset, array.offset);
    const std::int64_t end = std::min(offset + std::ssize(bytes), array.offset + array.bytes);
    if (begin >= end) continue;
    auto* to = reinterpret_cast<float*>(bytes.data() + (begin - offset));
    source.copy(i, (begin - array.offset) / 4, {to, static_cast<std::size_t>((end - begin) / 4)});
  }
}

}  // namespace

std::int64_t expected_bytes(const ShardContents& contents) noexcept {
  std::int64_t bytes = 0;
  for (const ShardContents::Array& a : contents.arrays) bytes += 4 * a.elements;
  bytes += static_cast<std::int64_t>(sizeof(IndexRow)) *
           (std::ssize(contents.rows) + std::ssize(contents.frozen_rows));
  return bytes;
}

CheckpointFile write_shard(const fs::path& path, const ShardSource& source) {
  CheckpointFile file = make_structures(path, source.contents());
  File out = File::open_to_write(path);
  // Where a rank holds no values HDF5 may end anywhere; a head has whole floats.
  const std::array<std::byte, 4> padding{};
  if (const std::int64_t end = out.size(); end < file.head_bytes)
    out.write(end, std::span(padding).first(static_cast<std::size_t>(file.head_bytes - end)));
  out.reserve(file.bytes);
  Hash whole;
  Hash block;
  whole.begin(Hash::Width::bits128);
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::max(file.head_bytes, chunk_bytes)));
  const auto add = [&](std::span<const std::byte> bytes) {
    whole.add(bytes);
    block.add(bytes);
  };
  const auto end_block = [&] {
    file.blocks.push_back(block.bits64());
    block.begin(Hash::Width::bits64);
  };
  const std::span head = std::span(buffer).first(static_cast<std::size_t>(file.head_bytes));
  out.read(0, head);
  add(head);
  end_block();
  std::int64_t written_out = 0;
  const std::int64_t blocks = block_count(file.bytes, file.head_bytes);
  for (std::int64_t b = 1; b < blocks; ++b) {
    const std::int64_t end = block_end(file, b);
    for (std::int64_t offset = block_begin(file, b); offset < end; offset += chunk_bytes) {
      const std::span chunk =
          std::span(buffer).first(static_cast<std::size_t>(std::min(chunk_bytes, end - offset)));
      fill(file, source, offset, chunk);
      add(chunk);
      out.write(offset, chunk);
      if (offset + std::ssize(chunk) - written_out >= write_out_bytes) {
        out.start_writing_out(written_out, offset + std::ssize(chunk) - written_out);
        written_out = offset + std::ssize(chunk);
      }
    }
    end_block();
  }
  file.xxh3_128 = whole.digits128();
  out.sync();
  if (out.size() != file.bytes) {
    throw CheckpointError(
        fmt::format("'{}' has {} bytes after writing {}", path.string(), out.size(), file.bytes));
  }
  out.close();
  return file;
}

}  // namespace shardmix::checkpoint
