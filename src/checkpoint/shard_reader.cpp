#include "checkpoint/shard_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "checkpoint/files.hpp"
#include "checkpoint/hashes.hpp"
#include "math/block.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t unit = 4 * math::block_elements;

/// The file, if it has the size that it must have.
File open_shard(const fs::path& path, const CheckpointFile& file) {
  File in = File::open_to_read(path);
  if (in.size() != file.bytes) {
    throw CheckpointError(
        fmt::format("'{}' has {} bytes, but the manifest says {}; the checkpoint is damaged",
                    path.string(), in.size(), file.bytes));
  }
  return in;
}

void compare(const fs::path& path, const CheckpointFile& file, std::int64_t block,
             const Hash& found) {
  const std::uint64_t expected = file.blocks[static_cast<std::size_t>(block)];
  if (found.bits64() == expected) return;
  throw CheckpointError(fmt::format(
      "'{}' has the checksum {} in its bytes {} to {}, but the manifest says {}; the checkpoint is "
      "damaged",
      path.string(), digits_of(found.bits64()), block_begin(file, block), block_end(file, block),
      digits_of(expected)));
}

std::vector<IndexRow> rows_in(const fs::path& path, const std::vector<std::byte>& head,
                              const CheckpointArray& array, const CheckpointArray* values) {
  std::vector<IndexRow> rows(static_cast<std::size_t>(array.bytes) / sizeof(IndexRow));
  if (!rows.empty())
    std::memcpy(rows.data(), head.data() + array.offset, rows.size() * sizeof(IndexRow));
  std::int64_t here = 0;
  for (const IndexRow& row : rows) {
    std::int64_t end = 0;
    if (row.here != here || row.count <= 0 || row.parameter < 0 || row.offset < 0 ||
        __builtin_add_overflow(row.offset, row.count, &end) ||
        __builtin_add_overflow(here, row.count, &here)) {
      throw CheckpointError(
          fmt::format("'{}' of '{}' isn't a sequence of pieces, each behind the other", array.name,
                      path.string()));
    }
  }
  if (values != nullptr && values->bytes / 4 != here) {
    throw CheckpointError(fmt::format("'{}' of '{}' has {} elements, but the index tells of {}",
                                      values->name, path.string(), values->bytes / 4, here));
  }
  return rows;
}

/// Gives the runs what is theirs of bytes that begin at `begin` in the file. Returns how far it
/// came: the rest is a part of a unit, and is to come again with what follows.
class Distributor {
 public:
  explicit Distributor(const std::vector<Run>& runs) : runs_(runs) {}

  std::int64_t give(std::int64_t begin, std::span<const std::byte> bytes) {
    const std::int64_t end = begin + std::ssize(bytes);
    for (; next_ < runs_.size() && runs_[next_].offset < end; ++next_) {
      const Run& run = runs_[next_];
      const std::int64_t run_end = run.offset + 4 * run.count;
      const std::int64_t from = std::max(begin, run.offset);
      const std::int64_t to =
          run_end <= end ? run_end : run.offset + (end - run.offset) / unit * unit;
      if (to > from) {
        const auto* values = reinterpret_cast<const float*>(bytes.data() + (from - begin));
        run.take((from - run.offset) / 4, {values, static_cast<std::size_t>((to - from) / 4)});
      }
      if (to < run_end) return std::max(from, to);
    }
    return end;
  }

 private:
  const std::vector<Run>& runs_;
  std::size_t next_ = 0;
};

}  // namespace

const CheckpointArray* find_array(const CheckpointFile& file, std::string_view name) {
  const auto found = std::ranges::find(file.arrays, name, &CheckpointArray::name);
  return found == file.arrays.end() ? nullptr : &*found;
}

ShardIndex read_index(const fs::path& directory, const CheckpointFile& file) {
  const fs::path path = directory / file.name;
  const File in = open_shard(path, file);
  std::vector<std::byte> head(static_cast<std::size_t>(file.head_bytes));
  in.read(0, head);
  Hash hash;
  hash.add(head);
  compare(path, file, 0, hash);
  ShardIndex index;
  const CheckpointArray* rows = find_array(file, index_name);
  for (const CheckpointArray& array : file.arrays) {
    if (array.name.starts_with("/state/")) index.rows = rows_in(path, head, *rows, &array);
  }
  if (const CheckpointArray* frozen = find_array(file, frozen_index_name))
    index.frozen_rows = rows_in(path, head, *frozen, find_array(file, frozen_value_name));
  return index;
}

std::vector<bool> blocks_of(const CheckpointFile& file, const std::vector<Run>& runs) {
  std::vector<bool> blocks(file.blocks.size());
  for (const Run& run : runs) {
    if (run.count == 0) continue;
    const std::int64_t last = block_of(file, run.offset + 4 * run.count - 1);
    for (std::int64_t b = block_of(file, run.offset); b <= last; ++b)
      blocks[static_cast<std::size_t>(b)] = true;
  }
  return blocks;
}

void read_runs(const fs::path& directory, const CheckpointFile& file, const std::vector<Run>& runs,
               const std::vector<bool>& blocks) {
  if (std::ranges::find(blocks, true) == blocks.end()) return;
  const fs::path path = directory / file.name;
  const File in = open_shard(path, file);
  in.read_ahead();
  Distributor distributor(runs);
  std::vector<std::byte> buffer(static_cast<std::size_t>(unit + std::min(chunk_bytes, file.bytes)));
  std::size_t kept = 0;  // bytes at the buffer's beginning, from before
  for (std::int64_t b = 0; b < std::ssize(blocks); ++b) {
    if (!blocks[static_cast<std::size_t>(b)]) {
      kept = 0;
      continue;
    }
    Hash hash;
    const std::int64_t end = block_end(file, b);
    for (std::int64_t at = block_begin(file, b); at < end; at += chunk_bytes) {
      const auto bytes = static_cast<std::size_t>(std::min(chunk_bytes, end - at));
      const std::span chunk = std::span(buffer).subspan(kept, bytes);
      in.read(at, chunk);
      hash.add(chunk);
      if (b == 0) continue;
      const std::int64_t begin = at - static_cast<std::int64_t>(kept);
      const std::int64_t reached = distributor.give(begin, std::span(buffer).first(kept + bytes));
      const auto used = static_cast<std::size_t>(reached - begin);
      kept = kept + bytes - used;
      std::memmove(buffer.data(), buffer.data() + used, kept);
    }
    compare(path, file, b, hash);
  }
}

void verify_file(const fs::path& directory, const CheckpointFile& file,
                 const std::function<void(std::int64_t)>& progress) {
  const fs::path path = directory / file.name;
  const File in = open_shard(path, file);
  in.read_ahead();
  Hash whole;
  whole.begin(Hash::Width::bits128);
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(chunk_bytes, file.bytes)));
  for (std::int64_t b = 0; b < std::ssize(file.blocks); ++b) {
    Hash hash;
    const std::int64_t end = block_end(file, b);
    for (std::int64_t at = block_begin(file, b); at < end; at += chunk_bytes) {
      const std::span chunk =
          std::span(buffer).first(static_cast<std::size_t>(std::min(chunk_bytes, end - at)));
      in.read(at, chunk);
      hash.add(chunk);
      whole.add(chunk);
      if (progress) progress(std::ssize(chunk));
    }
    compare(path, file, b, hash);
  }
  if (whole.digits128() != file.xxh3_128) {
    throw CheckpointError(
        fmt::format("'{}' has the checksum {}, but the manifest says {}; the checkpoint is damaged",
                    path.string(), whole.digits128(), file.xxh3_128));
  }
}

}  // namespace shardmix::checkpoint
