#include "checkpoint/shard_source.hpp"

#include <algorithm>
#include <iterator>
#include <ranges>

namespace shardmix::checkpoint {
namespace {

using optimizer::ShardedState;
using optimizer::State;

std::vector<OwnedPiece> pieces_in(const layout::Layout& layout,
                                  const std::vector<layout::Bucket>& buckets, int rank, int size) {
  std::vector<OwnedPiece> owned;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    for (const layout::Piece& piece : layout.pieces(layout::slice(buckets[b], rank, size)))
      owned.push_back({piece, b});
  }
  return owned;
}

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

std::vector<std::string> names_of(const std::vector<State>& states) {
  std::vector<std::string> names;
  for (const State s : states) names.emplace_back(name_of(s));
  return names;
}

std::vector<State> states_in(const ShardedState& state) {
  std::vector<State> states;
  std::ranges::copy_if(optimizer::all_states, std::back_inserter(states),
                       [&](State s) { return state.has(s); });
  return states;
}

/// Appends rows whose values come behind those of the rows before.
void append(std::vector<IndexRow>& rows, const std::vector<IndexRow>& more) {
  const std::int64_t before = elements_of(rows);
  for (IndexRow row : more) {
    row.here += before;
    rows.push_back(row);
  }
}

class LiveShard final : public ShardSource {
 public:
  LiveShard(const ShardedState& state, int rank, int size)
      : ShardSource(contents_of(state.layout(), names_of(states_in(state)), rank, size)),
        state_(state),
        states_(states_in(state)),
        owned_(owned_pieces(state, rank, size)),
        frozen_(owned_frozen_pieces(state, rank, size)) {}

  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override {
    const bool is_state = array < states_.size();
    const std::vector<IndexRow>& rows = is_state ? contents_.rows : contents_.frozen_rows;
    auto row = std::ranges::upper_bound(rows, begin, {}, &IndexRow::here) - 1;
    while (!to.empty()) {
      const std::int64_t skipped = begin - row->here;
      const std::int64_t count = std::min(row->count - skipped, std::ssize(to));
      const OwnedPiece& o =
          (is_state ? owned_ : frozen_)[static_cast<std::size_t>(row - rows.begin())];
      const layout::Range range{o.piece.begin + skipped, o.piece.begin + skipped + count};
      if (is_state)
        state_.read(states_[array], o.bucket, range, to.data());
      else
        read_frozen(state_, state_.layout().frozen_buckets()[o.bucket], range, to.data());
      to = to.subspan(static_cast<std::size_t>(count));
      begin += count;
      ++row;
    }
  }

 private:
  const ShardedState& state_;
  std::vector<State> states_;
  std::vector<OwnedPiece> owned_;
  std::vector<OwnedPiece> frozen_;
};

}  // namespace

std::vector<OwnedPiece> owned_pieces(const ShardedState& state, int rank, int size) {
  return pieces_in(state.layout(), state.layout().buckets(), rank, size);
}

std::vector<OwnedPiece> owned_frozen_pieces(const ShardedState& state, int rank, int size) {
  return pieces_in(state.layout(), state.layout().frozen_buckets(), rank, size);
}

ShardContents contents_of(const layout::Layout& layout, const std::vector<std::string>& states,
                          int rank, int size) {
  ShardContents contents{
      .rows = rows_of(pieces_in(layout, layout.buckets(), rank, size)),
      .frozen_rows = rows_of(pieces_in(layout, layout.frozen_buckets(), rank, size)),
      .arrays = {}};
  for (const std::string& state : states)
    contents.arrays.push_back({state_array_name(state), elements_of(contents.rows)});
  if (!layout.frozen_buckets().empty())
    contents.arrays.push_back({frozen_value_name, elements_of(contents.frozen_rows)});
  return contents;
}

ShardContents joined(const std::vector<ShardContents>& parts) {
  ShardContents all = parts.front();
  for (const ShardContents& more : parts | std::views::drop(1)) {
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

std::unique_ptr<ShardSource> live_shard(const ShardedState& state, int rank, int size) {
  return std::make_unique<LiveShard>(state, rank, size);
}

void Snapshot::take(const ShardSource& source) {
  contents_ = source.contents();
  values_.resize(contents_.arrays.size());
  for (std::size_t a = 0; a < values_.size(); ++a) {
    const std::int64_t elements = contents_.arrays[a].elements;
    if (values_[a].bytes() < 4 * elements) values_[a] = device::Buffer(*host_, 4 * elements);
    if (elements > 0)
      source.copy(a, 0, {values_[a].as<float>(), static_cast<std::size_t>(elements)});
  }
}

void Snapshot::copy(std::size_t array, std::int64_t begin, std::span<float> to) const {
  std::ranges::copy_n(values_[array].as<float>() + begin, std::ssize(to), to.begin());
}

}  // namespace shardmix::checkpoint
