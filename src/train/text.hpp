#pragma once

/// The training text: any file, read as bytes. Its last part is held out of the training to measure
/// on.

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace shardmix::train {

/// A file mapped into memory for reading: the ranks of a node share one copy in its page cache.
class TextFile {
 public:
  /// Throws ConfigError for a file that is missing, unreadable or no regular file.
  explicit TextFile(const std::filesystem::path& path);
  ~TextFile();
  TextFile(TextFile&& other) noexcept;
  TextFile& operator=(TextFile&&) = delete;

  [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept { return bytes_; }
  /// XXH3-64 of all bytes: tells one text from another.
  [[nodiscard]] std::uint64_t hash() const noexcept;

 private:
  std::span<const std::uint8_t> bytes_;
};

/// A text of `training` + `held_out` bytes, in this order.
struct TextSplit {
  std::int64_t training = 0;
  std::int64_t held_out = 0;
};

/// Holds out the last 5 %, 1 MiB at most and a sequence at least. Throws ConfigError for a text
/// that is too short to train on with this context.
[[nodiscard]] TextSplit split_text(std::int64_t bytes, std::int64_t context);

/// Where sequence `index` of the global batch of `step` begins: `context` tokens and the one that
/// follows lie within the training part. The same on any number of ranks.
[[nodiscard]] std::int64_t training_window(const TextSplit& split, std::int64_t context,
                                           std::uint64_t seed, std::int64_t step,
                                           std::int64_t index) noexcept;

/// Where the sequences of the held-out loss begin: at most `most`, without overlap, spread evenly
/// over the held-out part. The same for every step and run.
[[nodiscard]] std::vector<std::int64_t> held_out_windows(const TextSplit& split,
                                                         std::int64_t context, std::int64_t most);

}  // namespace shardmix::train
