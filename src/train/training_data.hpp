#pragma once

/// The text of a run, agreed on by all ranks, and the sequences cut from it.

#include <cstdint>
#include <vector>

#include "comm/collectives.hpp"
#include "train/batch.hpp"
#include "train/gpt.hpp"
#include "train/options.hpp"
#include "train/text.hpp"

namespace shardmix::train {

class TrainingData {
 public:
  /// Opens the text on every rank. Collective. Throws ConfigError on all ranks where one can't read
  /// it, where it is too short, or where two ranks see different texts.
  TrainingData(comm::Collectives& collectives, const TrainOptions& options);

  [[nodiscard]] std::int64_t bytes() const noexcept;
  [[nodiscard]] std::uint64_t hash() const noexcept { return hash_; }
  [[nodiscard]] const TextSplit& split() const noexcept { return split_; }

  /// The sequences `range` of the global batch of `step`. The view holds until the next call.
  [[nodiscard]] TokenWindows training(std::int64_t step, const SequenceRange& range);

  /// The sequences that a held-out loss is the mean of, over all ranks; at most the number that the
  /// options say.
  [[nodiscard]] std::int64_t held_out_sequences() const noexcept;
  /// The sequences `range` of them. The view holds until the next call.
  [[nodiscard]] TokenWindows held_out(const SequenceRange& range);

 private:
  void begin_windows() { tokens_.clear(); }
  void add_window(std::int64_t begin);
  [[nodiscard]] TokenWindows windows() const;

  TextFile text_;
  TextSplit split_;
  std::uint64_t hash_ = 0;
  std::int64_t context_;
  std::uint64_t seed_;
  std::vector<std::int64_t> held_out_;
  std::vector<std::uint8_t> tokens_;
};

}  // namespace shardmix::train
