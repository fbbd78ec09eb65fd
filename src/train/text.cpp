#include "train/text.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "shardmix/error.hpp"
#include "train/random_streams.hpp"

namespace shardmix::train {

TextSplit split_text(std::int64_t bytes, std::int64_t context) {
  constexpr std::int64_t most_held_out = std::int64_t{1} << 20;
  const std::int64_t window = context + 1;
  const std::int64_t held_out = std::max(window, std::min(bytes / 20, most_held_out));
  if (bytes - held_out < window) {
    throw ConfigError(
        fmt::format("the text has {} bytes, but a context of {} needs at least {}: {} to train on "
                    "and as many to hold out. Use a longer text or a smaller --context",
                    bytes, context, 2 * window, window));
  }
  return {.training = bytes - held_out, .held_out = held_out};
}

std::int64_t training_window(const TextSplit& split, std::int64_t context, std::uint64_t seed,
                             std::int64_t step, std::int64_t index) noexcept {
  const auto words = random_words(seed, {.stream = RandomStream::training_windows,
                                         .number = static_cast<std::uint64_t>(step),
                                         .item = static_cast<std::uint32_t>(index)});
  const std::uint64_t random = (std::uint64_t{words[1]} << 32) | words[0];
  // 64 random bits against at most 2^40 starts: the remainder's bias is below 2^-24.
  const auto starts = static_cast<std::uint64_t>(split.training - context);
  return static_cast<std::int64_t>(random % starts);
}

std::vector<std::int64_t> held_out_windows(const TextSplit& split, std::int64_t context,
                                           std::int64_t most) {
  // Neighbours share one byte: the last target of one is the first input of the next.
  const std::int64_t available = (split.held_out - 1) / context;
  const std::int64_t count = std::min(most, available);
  std::vector<std::int64_t> windows;
  for (std::int64_t i = 0; i < count; ++i) {
    windows.push_back(split.training + (available * i / count) * context);
  }
  return windows;
}

}  // namespace shardmix::train
