#include "checkpoint/contents.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "checkpoint/manifest.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

/// Where the pieces of one parameter lie.
struct Span {
  std::int64_t parameter;
  std::int64_t begin;
  std::int64_t end;
};

void require_tiling(const CheckpointInfo& info, std::vector<Span> spans, bool trainable) {
  std::ranges::sort(spans, {}, [](const Span& s) { return std::pair(s.parameter, s.begin); });
  auto next = spans.begin();
  for (std::int64_t p = 0; p < std::ssize(info.parameters); ++p) {
    const CheckpointParameter& parameter = info.parameters[static_cast<std::size_t>(p)];
    const std::int64_t elements = parameter.trainable == trainable ? parameter.elements() : 0;
    std::int64_t end = 0;
    for (; next != spans.end() && next->parameter == p && next->begin == end; ++next)
      end = next->end;
    if (end != elements || (next != spans.end() && next->parameter == p)) {
      throw CheckpointError(
          fmt::format("the files of '{}' don't hold each of the {} elements of parameter '{}' once",
                      info.directory.string(), elements, parameter.name));
    }
  }
  if (next != spans.end()) {
    throw CheckpointError(
        fmt::format("a file of '{}' holds parameter number {}, which the manifest hasn't",
                    info.directory.string(), next->parameter));
  }
}

std::vector<Span> spans_of(const std::vector<ShardIndex>& indices,
                           std::vector<IndexRow> ShardIndex::*rows) {
  std::vector<Span> spans;
  for (const ShardIndex& index : indices) {
    for (const IndexRow& row : index.*rows)
      spans.push_back({row.parameter, row.offset, row.offset + row.count});
  }
  return spans;
}

}  // namespace

void require_complete(const OpenCheckpoint& checkpoint) {
  require_tiling(checkpoint.info, spans_of(checkpoint.indices, &ShardIndex::rows), true);
  require_tiling(checkpoint.info, spans_of(checkpoint.indices, &ShardIndex::frozen_rows), false);
}

std::vector<std::vector<Piece>> pieces_by_parameter(std::size_t parameters,
                                                    const std::vector<ShardIndex>& indices) {
  std::vector<std::vector<Piece>> pieces(parameters);
  for (std::size_t f = 0; f < indices.size(); ++f) {
    for (const auto* rows : {&indices[f].rows, &indices[f].frozen_rows}) {
      for (const IndexRow& row : *rows)
        pieces[static_cast<std::size_t>(row.parameter)].push_back({row, f});
    }
  }
  for (std::vector<Piece>& of_parameter : pieces)
    std::ranges::sort(of_parameter, {}, [](const Piece& piece) { return piece.row.offset; });
  return pieces;
}

OpenCheckpoint open_alone(const std::filesystem::path& directory) {
  OpenCheckpoint checkpoint{.info = parse_manifest(read_manifest(directory), directory)};
  for (const CheckpointFile& file : checkpoint.info.files)
    checkpoint.indices.push_back(read_index(directory, file));
  require_complete(checkpoint);
  return checkpoint;
}

}  // namespace shardmix::checkpoint
