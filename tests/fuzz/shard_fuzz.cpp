// The reader of shards. An input describes a checkpoint of up to three files and has their bytes;
// all checksums are made to fit, so that what reads behind them gets to see it.

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "checkpoint/contents.hpp"
#include "checkpoint/hashes.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/shard_reader.hpp"
#include "checkpoint/values.hpp"
#include "fuzz/fuzz.hpp"
#include "shardmix/error.hpp"

namespace shardmix::fuzz {
namespace {

using checkpoint::IndexRow;
using checkpoint::OpenCheckpoint;
using checkpoint::Run;
using checkpoint::ShardIndex;

constexpr std::array state_names{"master", "m1", "m2", "v"};

std::uint64_t hash_of(std::string_view bytes) {
  checkpoint::Hash hash;
  hash.add(std::as_bytes(std::span(bytes)));
  return hash.bits64();
}

CheckpointParameter take_parameter(Input& input, std::size_t number) {
  const std::uint8_t kind = input.byte();
  CheckpointParameter parameter{.name = std::to_string(number), .trainable = kind % 2 == 0};
  for (int i = 0; i < kind / 2 % 4; ++i) parameter.shape.push_back(input.number());
  return parameter;
}

/// The file's bytes go to `contents`.
CheckpointFile take_file(Input& input, const CheckpointInfo& info, std::string& contents) {
  const std::uint8_t kind = input.byte();
  CheckpointFile file{.name = std::to_string(info.files.size()), .head_bytes = input.number()};
  const auto take_array = [&](std::string name) {
    file.arrays.push_back(
        {.name = std::move(name), .offset = input.number(), .bytes = input.number()});
  };
  take_array(checkpoint::index_name);
  for (const std::string& state : info.states) take_array(checkpoint::state_array_name(state));
  if (kind % 2 == 1) {
    take_array(checkpoint::frozen_index_name);
    take_array(checkpoint::frozen_value_name);
  }
  contents = input.text(static_cast<std::size_t>(std::max<std::int64_t>(input.number(), 0)));
  const auto bytes = std::ssize(contents);
  file.bytes = kind / 2 % 16 == 15 ? input.number() : bytes;
  const auto head = static_cast<std::size_t>(std::clamp<std::int64_t>(file.head_bytes, 0, bytes));
  file.blocks.push_back(hash_of(std::string_view(contents).substr(0, head)));
  if (head < contents.size())
    file.blocks.push_back(hash_of(std::string_view(contents).substr(head)));
  file.xxh3_128 = checkpoint::digits128_of(contents);
  return file;
}

CheckpointInfo take_checkpoint(Input& input, std::vector<std::string>& contents) {
  CheckpointInfo info{.rule_json = "{}"};
  const std::uint8_t states = input.byte();
  for (std::size_t i = 0; i < state_names.size(); ++i) {
    if ((states >> i & 1) == 1) info.states.emplace_back(state_names[i]);
  }
  const std::uint8_t parameters = input.byte() % 5;
  for (std::size_t i = 0; i < parameters; ++i) info.parameters.push_back(take_parameter(input, i));
  contents.resize(input.byte() % 4);
  for (std::string& bytes : contents) info.files.push_back(take_file(input, info, bytes));
  return info;
}

/// The runs of every row that `chosen` has a bit for, in the order of the file. Each must get what
/// the file has there, in order and in whole units; `taken` counts the elements.
std::vector<Run> runs_of(const CheckpointFile& file, const ShardIndex& index,
                         const std::string& contents, std::uint8_t chosen, std::int64_t& taken) {
  std::vector<Run> runs;
  for (const CheckpointArray& array : file.arrays) {
    if (array.name.ends_with("index")) continue;
    const bool is_frozen = array.name == checkpoint::frozen_value_name;
    for (const IndexRow& row : is_frozen ? index.frozen_rows : index.rows) {
      if ((chosen >> runs.size() % 8 & 1) == 0) continue;
      const std::int64_t offset = array.offset + 4 * row.here;
      runs.push_back({.offset = offset, .count = row.count, .take = {}});
      runs.back().take = [&contents, &taken, offset, count = row.count, next = std::int64_t{0}](
                             std::int64_t begin, std::span<const float> values) mutable {
        const std::int64_t end = begin + std::ssize(values);
        require(begin == next && end <= count, "a run gets its values in order");
        require(end == count || std::ssize(values) % 256 == 0, "a run gets whole units");
        require(std::memcmp(values.data(), contents.data() + offset + 4 * begin,
                            values.size_bytes()) == 0,
                "a run gets the file's values");
        next = end;
        taken += std::ssize(values);
      };
    }
  }
  std::ranges::sort(runs, {}, &Run::offset);
  return runs;
}

void read_some(const std::filesystem::path& directory, const CheckpointFile& file,
               const ShardIndex& index, const std::string& contents, std::uint8_t chosen) {
  std::int64_t taken = 0;
  const std::vector<Run> runs = runs_of(file, index, contents, chosen, taken);
  std::int64_t wanted = 0;
  for (const Run& run : runs) wanted += run.count;
  std::vector<bool> blocks = checkpoint::blocks_of(file, runs);
  if (chosen % 3 == 0) blocks[0] = true;
  checkpoint::read_runs(directory, file, runs, blocks);
  require(taken == wanted, "runs get all of their values");
}

/// Counts the elements, one by one.
void check_complete(const OpenCheckpoint& open) {
  std::vector<std::vector<int>> seen;
  for (const CheckpointParameter& p : open.info.parameters)
    seen.emplace_back(static_cast<std::size_t>(p.elements()));
  for (const ShardIndex& index : open.indices) {
    for (const auto* rows : {&index.rows, &index.frozen_rows}) {
      for (const IndexRow& row : *rows) {
        for (std::int64_t i = row.offset; i < row.offset + row.count; ++i)
          ++seen.at(static_cast<std::size_t>(row.parameter)).at(static_cast<std::size_t>(i));
      }
    }
  }
  // Without states nothing says what the index of trainable parameters tells of.
  for (const std::vector<int>& parameter : seen) {
    require(std::ranges::count(parameter, 1) == std::ssize(parameter),
            "a complete checkpoint holds each element once");
  }
}

void read_all(const OpenCheckpoint& open) {
  std::int64_t bytes = 0;
  checkpoint::ValueReader reader(open);
  std::vector<float> again;
  checkpoint::read_values(open, open.info.states,
                          [&](std::size_t parameter, const std::string& state, std::int64_t offset,
                              std::span<const float> values) {
                            again.resize(values.size());
                            reader.read(parameter, state, offset, again);
                            require(
                                std::memcmp(again.data(), values.data(), values.size_bytes()) == 0,
                                "both ways to read give the same values");
                            bytes += std::ssize(values) * 4;
                          });
  require(bytes == checkpoint::value_bytes(open.info, open.info.states),
          "all values of a complete checkpoint are read");
}

void read_checkpoint(Input& input) {
  static const Scratch scratch;
  std::vector<std::string> contents;
  const CheckpointInfo described = take_checkpoint(input, contents);
  OpenCheckpoint open{
      .info = checkpoint::parse_manifest(checkpoint::manifest_text(described), scratch.path())};
  for (std::size_t i = 0; i < contents.size(); ++i) {
    const CheckpointFile& file = open.info.files[i];
    scratch.write(file.name, contents[i]);
    open.indices.push_back(checkpoint::read_index(scratch.path(), file));
    checkpoint::verify_file(scratch.path(), file);
    read_some(scratch.path(), file, open.indices.back(), contents[i], input.byte());
  }
  checkpoint::require_complete(open);
  check_complete(open);
  read_all(open);
}

}  // namespace
}  // namespace shardmix::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    shardmix::fuzz::Input input(data, size);
    shardmix::fuzz::read_checkpoint(input);
  } catch (const shardmix::CheckpointError&) {
  }
  return 0;
}
