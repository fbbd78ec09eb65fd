#include "checkpoint/loader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "checkpoint/files.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/shard_file.hpp"
#include "comm/agree.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;
using optimizer::ShardedState;
using optimizer::State;

std::string broadcast_manifest(comm::Collectives& collectives, const fs::path& directory) {
  std::string text;
  comm::agreed(collectives, [&] {
    if (collectives.rank() == 0) text = read_manifest(directory);
  });
  std::int64_t length = std::ssize(text);
  collectives.broadcast(std::as_writable_bytes(std::span(&length, 1)), 0);
  text.resize(static_cast<std::size_t>(length));
  collectives.broadcast(std::as_writable_bytes(std::span(text)), 0);
  return text;
}

void verify_file(const fs::path& directory, const CheckpointFile& file) {
  const fs::path path = directory / file.name;
  const Digest found = digest_of(path);
  if (found.bytes != file.bytes) {
    throw CheckpointError(
        fmt::format("'{}' has {} bytes, but the manifest says {}; the checkpoint is damaged",
                    path.string(), found.bytes, file.bytes));
  }
  if (found.xxh3_128 != file.xxh3_128) {
    throw CheckpointError(
        fmt::format("'{}' has the checksum {}, but the manifest says {}; the checkpoint is damaged",
                    path.string(), found.xxh3_128, file.xxh3_128));
  }
}

std::int64_t elements_of(const CheckpointParameter& p) {
  std::int64_t product = 1;
  for (const std::int64_t extent : p.shape) product *= extent;
  return product;
}

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
    const std::int64_t elements = parameter.trainable == trainable ? elements_of(parameter) : 0;
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

void append(std::vector<Span>& spans, const std::vector<IndexRow>& rows) {
  for (const IndexRow& row : rows) {
    std::int64_t end = 0;
    if (__builtin_add_overflow(row.offset, row.count, &end))
      throw CheckpointError("an index row runs past every size");
    spans.push_back({row.parameter, row.offset, end});
  }
}

void verify_contents(const CheckpointInfo& info) {
  std::vector<Span> trainable;
  std::vector<Span> frozen;
  for (const CheckpointFile& file : info.files) {
    const ShardReader reader(info.directory / file.name, info.states);
    append(trainable, reader.rows());
    append(frozen, reader.frozen_rows());
  }
  require_tiling(info, std::move(trainable), true);
  require_tiling(info, std::move(frozen), false);
}

/// Every parameter must be there, with the same shape, and no other.
void require_same_model(const ShardedOptimizer::Impl& optimizer, const CheckpointInfo& info) {
  const std::string where = info.directory.string();
  for (const CheckpointParameter& saved : info.parameters) {
    const auto i = optimizer.parameters.find(saved.name);
    if (!i || optimizer.parameters[*i].name != saved.name) {
      throw CheckpointError(fmt::format(
          "'{}' is of another model: it holds the parameter '{}', which this one hasn't", where,
          saved.name));
    }
    const Parameter& own = optimizer.parameters[*i];
    if (own.shape != saved.shape) {
      throw CheckpointError(
          fmt::format("'{}' is of another model: '{}' has the shape ({}) there and ({}) here",
                      where, saved.name, fmt::join(saved.shape, ", "), fmt::join(own.shape, ", ")));
    }
    if (own.group.trainable != saved.trainable) {
      throw CheckpointError(fmt::format("'{}': parameter '{}' is {} there and {} here", where,
                                        saved.name, saved.trainable ? "trainable" : "frozen",
                                        own.group.trainable ? "trainable" : "frozen"));
    }
  }
  if (info.parameters.size() == optimizer.parameters.size()) return;
  for (const Parameter& own : optimizer.parameters) {
    if (std::ranges::find(info.parameters, own.name, &CheckpointParameter::name) ==
        info.parameters.end()) {
      throw CheckpointError(
          fmt::format("'{}' is of another model: it lacks the parameter '{}'", where, own.name));
    }
  }
}

/// Whether m2 in the checkpoint is what the optimizer's rule keeps: an average, or a sum.
bool same_m2(const ShardedState& state, const CheckpointInfo& info) {
  for (const Rule& rule : all_rules()) {
    if (name_of(rule) == info.rule) return states_of(rule).m2_is_sum == state.states().m2_is_sum;
  }
  return true;
}

/// Which states come from the checkpoint. m2 may begin at zero: that is the switch from AdamW.
std::vector<State> states_to_load(const ShardedState& state, const CheckpointInfo& info) {
  std::vector<State> result;
  for (const State s : optimizer::all_states) {
    const bool saved = std::ranges::find(info.states, name_of(s)) != info.states.end();
    if (s == State::m2 && !same_m2(state, info)) continue;
    if (state.has(s) && saved) result.push_back(s);
    if (state.has(s) && !saved && s != State::m2) {
      throw CheckpointError(
          fmt::format("'{}' holds no {}: it was written by {} with other hyper-parameters ({})",
                      info.directory.string(), name_of(s), info.rule, info.rule_json));
    }
  }
  return result;
}

using PiecesOf =
    std::unordered_map<std::int64_t, std::vector<OwnedPiece>>;  ///< by the position in the manifest

PiecesOf by_saved_parameter(const ShardedOptimizer::Impl& optimizer, const CheckpointInfo& info,
                            const std::vector<OwnedPiece>& owned) {
  std::vector<std::int64_t> saved_position(optimizer.parameters.size());
  for (std::size_t i = 0; i < info.parameters.size(); ++i) {
    saved_position[optimizer.parameters.index(info.parameters[i].name)] =
        static_cast<std::int64_t>(i);
  }
  PiecesOf pieces;
  for (const OwnedPiece& o : owned) pieces[saved_position[o.piece.parameter]].push_back(o);
  return pieces;
}

/// Calls `visit(owned, range, here)` for every run of elements that a row and this rank's pieces
/// share, of at most staging_elements.
template <class Visit>
void for_each_overlap(const std::vector<IndexRow>& rows, const PiecesOf& pieces,
                      const Visit& visit) {
  for (const IndexRow& row : rows) {
    const auto found = pieces.find(row.parameter);
    if (found == pieces.end()) continue;
    for (const OwnedPiece& o : found->second) {
      const layout::Range both = layout::intersection(
          {row.offset, row.offset + row.count}, {o.piece.offset, o.piece.offset + o.piece.count});
      for (std::int64_t at = both.begin; at < both.end; at += staging_elements) {
        const std::int64_t count = std::min(staging_elements, both.end - at);
        const std::int64_t begin = o.piece.begin + (at - o.piece.offset);
        visit(o, layout::Range{begin, begin + count}, row.here + (at - row.offset));
      }
    }
  }
}

void read_states(ShardedOptimizer::Impl& optimizer, const CheckpointInfo& info,
                 const std::vector<State>& states) {
  ShardedState& state = optimizer.state;
  const int rank = optimizer.collectives.rank();
  const int size = optimizer.collectives.size();
  const PiecesOf own = by_saved_parameter(optimizer, info, owned_pieces(state, rank, size));
  std::vector<OwnedPiece> all_frozen;  // every rank holds these whole
  for (int r = 0; r < size; ++r)
    std::ranges::copy(owned_frozen_pieces(state, r, size), std::back_inserter(all_frozen));
  const PiecesOf frozen = by_saved_parameter(optimizer, info, all_frozen);
  std::vector<float> buffer(static_cast<std::size_t>(staging_elements));
  for (const CheckpointFile& file : info.files) {
    const ShardReader reader(info.directory / file.name, info.states);
    for (const State s : states) {
      for_each_overlap(reader.rows(), own,
                       [&](const OwnedPiece& o, layout::Range range, std::int64_t here) {
                         reader.read(s, here, range.size(), buffer.data());
                         state.write(s, o.bucket, range, buffer.data());
                       });
    }
    for_each_overlap(reader.frozen_rows(), frozen,
                     [&](const OwnedPiece& o, layout::Range range, std::int64_t here) {
                       reader.read_frozen(here, range.size(), buffer.data());
                       write_frozen(state, state.layout().frozen_buckets()[o.bucket], range,
                                    buffer.data());
                     });
  }
}

std::string note_on_rule(const ShardedOptimizer::Impl& optimizer, const CheckpointInfo& info,
                         const std::vector<State>& states, bool m2_begins) {
  const std::string_view rule = name_of(optimizer.rule);
  if (m2_begins) {
    std::vector<std::string_view> kept;
    for (const State s : states) kept.push_back(name_of(s));
    return fmt::format(
        "switched from {} to {} at step {}: {} and the step are kept, m2 starts at zero", info.rule,
        rule, info.clocks.step, fmt::join(kept, ", "));
  }
  if (rule != info.rule)
    return fmt::format("switched from {} to {} at step {}", info.rule, rule, info.clocks.step);
  return "";
}

}  // namespace

CheckpointInfo verify(comm::Collectives& collectives, const fs::path& directory) {
  const std::string text = broadcast_manifest(collectives, directory);
  CheckpointInfo info;
  comm::agreed(collectives, [&] {
    info = parse_manifest(text, directory);
    for (std::size_t i = static_cast<std::size_t>(collectives.rank()); i < info.files.size();
         i += static_cast<std::size_t>(collectives.size())) {
      verify_file(directory, info.files[i]);
    }
  });
  comm::agreed(collectives, [&] {
    if (collectives.rank() == 0) verify_contents(info);
  });
  return info;
}

std::string load(ShardedOptimizer::Impl& optimizer, const CheckpointInfo& info) {
  std::vector<State> states;
  comm::agreed(optimizer.collectives, [&] {
    require_same_model(optimizer, info);
    states = states_to_load(optimizer.state, info);
  });
  optimizer.wait_all();
  const bool m2_begins =
      optimizer.state.has(State::m2) && std::ranges::find(states, State::m2) == states.end();
  comm::agreed(optimizer.collectives, [&] {
    if (m2_begins) {  // drop what it holds: new memory is zero
      RuleStates without = optimizer.state.states();
      without.m2 = false;
      optimizer.state.set_states(without);
      optimizer.state.set_states(states_of(optimizer.rule));
    }
    read_states(optimizer, info, states);
  });
  optimizer.gather_all();
  optimizer.clocks = info.clocks;
  // One that was constant (1, of a run in fp32) doesn't tell where a dynamic one should be.
  if (optimizer.options.loss_scaling.growth_interval > 0 && info.usable_steps) {
    optimizer.loss_scale = info.loss_scale;
    optimizer.usable_steps = *info.usable_steps;
  }
  if (m2_begins) optimizer.clocks.slow_step = 0;
  optimizer.has_values = true;
  return note_on_rule(optimizer, info, states, m2_begins);
}

}  // namespace shardmix::checkpoint
