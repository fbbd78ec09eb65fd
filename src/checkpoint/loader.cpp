#include "checkpoint/loader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "checkpoint/manifest.hpp"
#include "checkpoint/shard_source.hpp"
#include "comm/agree.hpp"
#include "optimizer/switch.hpp"
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

std::string to_text(const std::vector<IndexRow>& rows) {
  return {reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(IndexRow)};
}

std::vector<IndexRow> to_rows(std::string_view text) {
  std::vector<IndexRow> rows(text.size() / sizeof(IndexRow));
  if (!rows.empty()) std::memcpy(rows.data(), text.data(), text.size());
  return rows;
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

bool is_saved(const CheckpointInfo& info, State state) {
  return std::ranges::find(info.states, name_of(state)) != info.states.end();
}

/// What the checkpoint holds, beside what the optimizer's rule keeps.
RuleStates saved_states(const ShardedState& state, const CheckpointInfo& info) {
  RuleStates saved{.m1 = is_saved(info, State::m1),
                   .m2 = is_saved(info, State::m2),
                   .v = is_saved(info, State::v),
                   .m2_is_sum = state.states().m2_is_sum};
  for (const Rule& rule : all_rules()) {
    if (name_of(rule) == info.rule) saved.m2_is_sum = states_of(rule).m2_is_sum;
  }
  return saved;
}

/// Which states come from the checkpoint. m2 may begin: that is the switch from AdamW.
std::vector<State> states_to_load(const ShardedState& state, const CheckpointInfo& info) {
  const bool m2_begins = optimizer::m2_begins(saved_states(state, info), state.states());
  std::vector<State> result;
  for (const State s : optimizer::all_states) {
    if (s == State::m2 && m2_begins) continue;
    const bool saved = is_saved(info, s);
    if (state.has(s) && saved) result.push_back(s);
    if (state.has(s) && !saved) {
      throw CheckpointError(
          fmt::format("'{}' holds no {}: it was written by {} with other hyper-parameters ({})",
                      info.directory.string(), name_of(s), info.rule, info.rule_json));
    }
  }
  return result;
}

/// This rank's pieces by the position of their parameter in the manifest.
using PiecesOf = std::unordered_map<std::int64_t, std::vector<OwnedPiece>>;

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

/// What a rank takes from the files.
class Reading {
 public:
  Reading(ShardedOptimizer::Impl& optimizer, const OpenCheckpoint& checkpoint,
          const std::vector<State>& states)
      : state_(optimizer.state), checkpoint_(checkpoint) {
    const int rank = optimizer.collectives.rank();
    const int size = optimizer.collectives.size();
    const PiecesOf own =
        by_saved_parameter(optimizer, checkpoint.info,
                           owned_pieces(state_.layout(), state_.layout().buckets(), rank, size));
    std::vector<OwnedPiece> all_frozen;  // every rank holds these whole
    for (int r = 0; r < size; ++r)
      std::ranges::copy(owned_pieces(state_.layout(), state_.layout().frozen_buckets(), r, size),
                        std::back_inserter(all_frozen));
    const PiecesOf frozen = by_saved_parameter(optimizer, checkpoint.info, all_frozen);
    for (std::size_t f = 0; f < checkpoint.info.files.size(); ++f) {
      const CheckpointFile& file = checkpoint.info.files[f];
      const ShardIndex& index = checkpoint.indices[f];
      std::vector<Run> runs;
      for (const State s : states) {
        add_runs(runs, *find_array(file, state_array_name(name_of(s))), index.rows, own,
                 [this, s](const OwnedPiece& o, layout::Range range, const float* values) {
                   state_.write(s, o.bucket, range, values);
                 });
      }
      if (const CheckpointArray* array = find_array(file, frozen_value_name)) {
        add_runs(runs, *array, index.frozen_rows, frozen,
                 [this](const OwnedPiece& o, layout::Range range, const float* values) {
                   write_frozen(state_, state_.layout().frozen_buckets()[o.bucket], range, values);
                 });
      }
      std::ranges::sort(runs, {}, &Run::offset);
      blocks_.push_back(blocks_of(file, runs));
      blocks_.back()[0] = true;  // the head was verified when it was opened
      runs_.push_back(std::move(runs));
    }
  }

  /// Shares blocks out that no rank needs. Collective.
  void share_the_rest(comm::Collectives& collectives) {
    std::string needed;
    for (const std::vector<bool>& file : blocks_) {
      for (const bool block : file) needed += block ? '1' : '0';
    }
    for (const std::string& other : collectives.all_gather(needed)) {
      for (std::size_t i = 0; i < needed.size(); ++i) needed[i] = std::max(needed[i], other[i]);
    }
    std::size_t i = 0;
    int turn = 0;
    for (std::vector<bool>& file : blocks_) {
      for (std::size_t b = 0; b < file.size(); ++b, ++i) {
        if (needed[i] == '1') continue;
        if (turn == collectives.rank()) file[b] = true;
        turn = (turn + 1) % collectives.size();
      }
      file[0] = false;
    }
  }

  void read() const {
    for (std::size_t f = 0; f < runs_.size(); ++f) {
      read_runs(checkpoint_.info.directory, checkpoint_.info.files[f], runs_[f], blocks_[f]);
    }
  }

 private:
  /// A run for every stretch that a row and a piece share.
  template <class Take>
  static void add_runs(std::vector<Run>& runs, const CheckpointArray& array,
                       const std::vector<IndexRow>& rows, const PiecesOf& pieces,
                       const Take& take) {
    for (const IndexRow& row : rows) {
      const auto found = pieces.find(row.parameter);
      if (found == pieces.end()) continue;
      for (const OwnedPiece& o : found->second) {
        const layout::Range both = layout::intersection(
            {row.offset, row.offset + row.count}, {o.piece.offset, o.piece.offset + o.piece.count});
        if (both.begin >= both.end) continue;
        const std::int64_t first = o.piece.begin + (both.begin - o.piece.offset);
        runs.push_back(
            {.offset = array.offset + 4 * (row.here + both.begin - row.offset),
             .count = both.size(),
             .take = [take, o, first](std::int64_t begin, std::span<const float> values) {
               take(o, {first + begin, first + begin + std::ssize(values)}, values.data());
             }});
      }
    }
  }

  ShardedState& state_;
  const OpenCheckpoint& checkpoint_;
  std::vector<std::vector<Run>> runs_;     ///< of each file
  std::vector<std::vector<bool>> blocks_;  ///< of each file, what this rank reads
};

/// Nothing where the same rule goes on with the same states.
std::optional<SwitchReport> report_on_switch(const ShardedOptimizer::Impl& optimizer,
                                             const CheckpointInfo& info, M2Start m2) {
  SwitchReport report{.from = info.rule,
                      .to = std::string(name_of(optimizer.rule)),
                      .step = info.clocks.step,
                      .m2 = m2,
                      .slow_step = optimizer.clocks.slow_step};
  optimizer::compare_states(report, saved_states(optimizer.state, info), optimizer.state.states());
  if (report.from == report.to && report.started.empty() && report.dropped.empty()) return {};
  return report;
}

}  // namespace

OpenCheckpoint open_checkpoint(comm::Collectives& collectives, const fs::path& directory) {
  const std::string text = broadcast_manifest(collectives, directory);
  OpenCheckpoint checkpoint;
  std::string rows;
  std::string frozen_rows;
  comm::agreed(collectives, [&] {
    checkpoint.info = parse_manifest(text, directory);
    const auto& files = checkpoint.info.files;
    for (std::size_t i = static_cast<std::size_t>(collectives.rank()); i < files.size();
         i += static_cast<std::size_t>(collectives.size())) {
      const ShardIndex index = read_index(directory, files[i]);
      rows += to_text(index.rows);
      frozen_rows += to_text(index.frozen_rows);
    }
  });
  const std::vector<std::string> all_rows = collectives.all_gather(rows);
  const std::vector<std::string> all_frozen_rows = collectives.all_gather(frozen_rows);
  std::vector<std::size_t> at(all_rows.size());
  std::vector<std::size_t> frozen_at(all_rows.size());
  for (std::size_t i = 0; i < checkpoint.info.files.size(); ++i) {
    const CheckpointFile& file = checkpoint.info.files[i];
    const std::size_t r = i % all_rows.size();
    const auto take = [&](const std::string& from, std::size_t& begin, const char* name) {
      const CheckpointArray* array = find_array(file, name);
      const std::size_t bytes = array == nullptr ? 0 : static_cast<std::size_t>(array->bytes);
      begin += bytes;
      return to_rows(std::string_view(from).substr(begin - bytes, bytes));
    };
    checkpoint.indices.push_back(
        {.rows = take(all_rows[r], at[r], index_name),
         .frozen_rows = take(all_frozen_rows[r], frozen_at[r], frozen_index_name)});
  }
  comm::agreed(collectives, [&] { require_complete(checkpoint); });
  return checkpoint;
}

void require_fitting(const ShardedOptimizer::Impl& optimizer, const OpenCheckpoint& checkpoint,
                     const SwitchOptions& options) {
  const CheckpointInfo& info = checkpoint.info;
  const ShardedState& state = optimizer.state;
  comm::agreed(optimizer.collectives, [&] {
    require_same_model(optimizer, info);
    (void)states_to_load(state, info);
    optimizer::require_m2_start(options, saved_states(state, info), state.states(), info.rule,
                                name_of(optimizer.rule));
  });
}

std::optional<SwitchReport> load(ShardedOptimizer::Impl& optimizer,
                                 const OpenCheckpoint& checkpoint, const SwitchOptions& options) {
  const CheckpointInfo& info = checkpoint.info;
  const std::vector<State> states = states_to_load(optimizer.state, info);
  optimizer.wait_all();
  optimizer.await_readers();
  optimizer.collectives.wait_for_device();
  const bool m2_begins =
      optimizer::m2_begins(saved_states(optimizer.state, info), optimizer.state.states());
  if (m2_begins) {  // drop what it holds: new memory is zero
    comm::agreed(optimizer.collectives, [&] {
      RuleStates without = optimizer.state.states();
      without.m2 = false;
      const RuleStates with = states_of(optimizer.rule);
      optimizer.state.set_states(without, optimizer.state.make_moments(without));
      optimizer.state.set_states(with, optimizer.state.make_moments(with));
    });
  }
  Reading reading(optimizer, checkpoint, states);
  reading.share_the_rest(optimizer.collectives);
  comm::agreed(optimizer.collectives, [&] { reading.read(); });
  optimizer.gather_all();
  optimizer.clocks = info.clocks;
  // One that was constant (1, of a run in fp32) doesn't tell where a dynamic one should be.
  if (optimizer.options.loss_scaling.growth_interval > 0 && info.usable_steps) {
    optimizer.loss_scale = info.loss_scale;
    optimizer.usable_steps = *info.usable_steps;
  }
  if (m2_begins || !optimizer.state.has(State::m2)) optimizer.clocks.slow_step = 0;
  const M2Start m2 = m2_begins ? options.m2 : M2Start::zero;
  if (m2 == M2Start::from_m1) optimizer.start_m2_from_m1(optimizer.rule);
  optimizer.has_values = true;
  return report_on_switch(optimizer, info, m2);
}

}  // namespace shardmix::checkpoint
