#include "checkpoint/shard_source.hpp"

#include <algorithm>
#include <span>

namespace shardmix::checkpoint {
namespace {

/// Rows that give each piece its place, one after the other.
std::vector<IndexRow> rows_of(const std::vector<OwnedPiece>& owned) {
  std::vector<IndexRow> rows;
  std::int64_t here = 0;
  for (const OwnedPiece& o : owned) {
    rows.push_back(
        {static_cast<std::int64_t>(o.piece.parameter), o.piece.offset, here, o.piece.count});
    here += o.piece.count;
  }
  return rows;
}

std::int64_t elements_of(const std::vector<IndexRow>& rows) {
  return rows.empty() ? 0 : rows.back().here + rows.back().count;
}

/// Appends rows whose values come behind those of the rows before.
void append(std::vector<IndexRow>& rows, const std::vector<IndexRow>& more) {
  const std::int64_t before = elements_of(rows);
  for (IndexRow row : more) {
    row.here += before;
    rows.push_back(row);
  }
}

}  // namespace

std::vector<OwnedPiece> owned_pieces(const layout::Layout& layout,
                                     const std::vector<layout::Bucket>& buckets, int rank,
                                     int size) {
  std::vector<OwnedPiece> owned;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    for (const layout::Piece& piece : layout.pieces(layout::slice(buckets[b], rank, size)))
      owned.push_back({piece, b});
  }
  return owned;
}

ShardContents contents_of(const layout::Layout& layout, const std::vector<std::string>& states,
                          int rank, int size) {
  ShardContents contents{
      .rows = rows_of(owned_pieces(layout, layout.buckets(), rank, size)),
      .frozen_rows = rows_of(owned_pieces(layout, layout.frozen_buckets(), rank, size)),
      .arrays = {}};
  for (const std::string& state : states)
    contents.arrays.push_back({state_array_name(state), elements_of(contents.rows)});
  if (!layout.frozen_buckets().empty())
    contents.arrays.push_back({frozen_value_name, elements_of(contents.frozen_rows)});
  return contents;
}

ShardContents joined(const std::vector<ShardContents>& parts) {
  ShardContents all = parts.front();
  for (const ShardContents& more : std::span(parts).subspan(1)) {
    append(all.rows, more.rows);
    append(all.frozen_rows, more.frozen_rows);
    for (std::size_t a = 0; a < all.arrays.size(); ++a)
      all.arrays[a].elements += more.arrays[a].elements;
  }
  return all;
}

JoinedShards::JoinedShards(std::vector<const ShardSource*> parts) : parts_(std::move(parts)) {
  std::vector<ShardContents> contents;
  for (const ShardSource* part : parts_) contents.push_back(part->contents());
  contents_ = joined(contents);
}

void JoinedShards::copy(std::size_t array, std::int64_t begin, std::span<float> to) const {
  for (const ShardSource* part : parts_) {
    if (to.empty()) return;
    const std::int64_t elements = part->contents().arrays[array].elements;
    if (const std::int64_t count = std::min(elements - begin, std::ssize(to)); count > 0) {
      part->copy(array, begin, to.first(static_cast<std::size_t>(count)));
      to = to.subspan(static_cast<std::size_t>(count));
      begin += count;
    }
    begin -= elements;
  }
}

}  // namespace shardmix::checkpoint
