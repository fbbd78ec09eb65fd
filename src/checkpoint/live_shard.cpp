#include "checkpoint/live_shard.hpp"

#include <algorithm>
#include <iterator>

namespace shardmix::checkpoint {
namespace {

using optimizer::ShardedState;
using optimizer::State;

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

class LiveShard final : public ShardSource {
 public:
  LiveShard(const ShardedState& state, int rank, int size)
      : ShardSource(contents_of(state.layout(), names_of(states_in(state)), rank, size)),
        state_(state),
        states_(states_in(state)),
        owned_(owned_pieces(state.layout(), state.layout().buckets(), rank, size)),
        frozen_(owned_pieces(state.layout(), state.layout().frozen_buckets(), rank, size)) {}

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
