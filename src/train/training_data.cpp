#include "train/training_data.hpp"

#include <fmt/format.h>

#include <array>
#include <optional>

#include "comm/agree.hpp"
#include "shardmix/error.hpp"

namespace shardmix::train {
namespace {

TextFile open_everywhere(comm::Collectives& collectives, const std::filesystem::path& path) {
  std::optional<TextFile> text;
  comm::agreed(collectives, [&] { text.emplace(path); });
  return std::move(*text);
}

/// Collective.
void require_equal_texts(comm::Collectives& collectives, std::int64_t bytes, std::uint64_t hash,
                         const std::filesystem::path& path) {
  const auto signed_hash = static_cast<std::int64_t>(hash);
  // ~x turns the order around and, unlike -x, never overflows: the largest ~x belongs to the least
  // x.
  std::array<std::int64_t, 4> extremes{bytes, ~bytes, signed_hash, ~signed_hash};
  collectives.all_reduce_max(extremes);
  if (extremes[0] != ~extremes[1] || extremes[2] != ~extremes[3]) {
    throw ConfigError(fmt::format(
        "the ranks see different texts under the name {} (--text), of {} to {} bytes; give every "
        "machine the same file",
        path.string(), ~extremes[1], extremes[0]));
  }
}

}  // namespace

TrainingData::TrainingData(comm::Collectives& collectives, const TrainOptions& options)
    : text_(open_everywhere(collectives, options.text)),
      hash_(text_.hash()),
      context_(shape_of(options).context),
      seed_(options.seed) {
  require_equal_texts(collectives, bytes(), hash_, options.text);
  split_ = split_text(bytes(), context_);
  held_out_ = held_out_windows(split_, context_, options.eval_sequences);
}

std::int64_t TrainingData::bytes() const noexcept {
  return static_cast<std::int64_t>(text_.bytes().size());
}

TokenWindows TrainingData::training(std::int64_t step, const SequenceRange& range) {
  begin_windows();
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    add_window(training_window(split_, context_, seed_, step, i));
  }
  return windows();
}

std::int64_t TrainingData::held_out_sequences() const noexcept {
  return static_cast<std::int64_t>(held_out_.size());
}

TokenWindows TrainingData::held_out(const SequenceRange& range) {
  begin_windows();
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    add_window(held_out_[static_cast<std::size_t>(i)]);
  }
  return windows();
}

void TrainingData::add_window(std::int64_t begin) {
  const auto window = text_.bytes().subspan(static_cast<std::size_t>(begin),
                                            static_cast<std::size_t>(context_ + 1));
  tokens_.insert(tokens_.end(), window.begin(), window.end());
}

TokenWindows TrainingData::windows() const {
  return {.tokens = tokens_,
          .sequences = static_cast<std::int64_t>(tokens_.size()) / (context_ + 1)};
}

}  // namespace shardmix::train
