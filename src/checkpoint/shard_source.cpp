#include "checkpoint/shard_source.hpp"

#include <algorithm>

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

class LiveShard final : public ShardSource {
 public:
  LiveShard(const ShardedState& state, int rank, int size)
      : state_(state),
        owned_(owned_pieces(state, rank, size)),
        frozen_(owned_frozen_pieces(state, rank, size)) {
    rows_ = rows_of(owned_);
    frozen_rows_ = rows_of(frozen_);
    for (const State s : optimizer::all_states) {
      if (!state.has(s)) continue;
      states_.push_back(s);
      arrays_.push_back({state_array_name(name_of(s)), elements_of(rows_)});
    }
    if (!state.layout().frozen_buckets().empty())
      arrays_.push_back({frozen_value_name, elements_of(frozen_rows_)});
  }

  void copy(std::size_t array, std::int64_t begin, std::span<float> to) const override {
    const bool is_state = array < states_.size();
    const std::vector<IndexRow>& rows = is_state ? rows_ : frozen_rows_;
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
  std::vector<OwnedPiece> owned_;
  std::vector<OwnedPiece> frozen_;
  std::vector<State> states_;
};

}  // namespace

std::vector<OwnedPiece> owned_pieces(const ShardedState& state, int rank, int size) {
  return pieces_in(state.layout(), state.layout().buckets(), rank, size);
}

std::vector<OwnedPiece> owned_frozen_pieces(const ShardedState& state, int rank, int size) {
  return pieces_in(state.layout(), state.layout().frozen_buckets(), rank, size);
}

std::unique_ptr<ShardSource> live_shard(const ShardedState& state, int rank, int size) {
  return std::make_unique<LiveShard>(state, rank, size);
}

void Snapshot::take(const ShardSource& source) {
  arrays_ = source.arrays();
  rows_ = source.rows();
  frozen_rows_ = source.frozen_rows();
  values_.resize(arrays_.size());
  for (std::size_t a = 0; a < arrays_.size(); ++a) {
    const std::int64_t elements = arrays_[a].elements;
    if (values_[a].bytes() < 4 * elements) values_[a] = device::Buffer(*host_, 4 * elements);
    if (elements > 0)
      source.copy(a, 0, {values_[a].as<float>(), static_cast<std::size_t>(elements)});
  }
}

void Snapshot::copy(std::size_t array, std::int64_t begin, std::span<float> to) const {
  std::ranges::copy_n(values_[array].as<float>() + begin, std::ssize(to), to.begin());
}

}  // namespace shardmix::checkpoint
