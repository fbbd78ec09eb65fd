#pragma once

/// The states that a rank holds, whatever their format.

#include <map>
#include <string>
#include <vector>

#include "optimizer/optimizer_impl.hpp"

namespace shardmix::testing {

/// By name, "m1" say: the fp32 values of this rank's elements, without padding.
inline std::map<std::string, std::vector<float>> states_of_shard(
    const ShardedOptimizer& optimizer) {
  const optimizer::ShardedState& state = optimizer.impl().state;
  optimizer.impl().collectives.wait_for_device();
  std::map<std::string, std::vector<float>> all;
  for (const optimizer::State s : optimizer::all_states) {
    if (!state.has(s)) continue;
    std::vector<float>& values = all[std::string(name_of(s))];
    for (std::size_t b = 0; b < state.shard().slices.size(); ++b) {
      for (const layout::Piece& piece : state.layout().pieces(state.shard().slices[b].range)) {
        const auto begin = std::ssize(values);
        values.resize(values.size() + static_cast<std::size_t>(piece.count));
        state.read(s, b, {piece.begin, piece.begin + piece.count}, values.data() + begin);
      }
    }
  }
  return all;
}

}  // namespace shardmix::testing
