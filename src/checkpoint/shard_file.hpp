#pragma once

/// A rank's file in a checkpoint.
///
///     /index            int64 [n, 4]  parameter, offset in it, offset here, count: which elements
///     follow /state/<name>     fp32 [elements]  for master and each state that the rule keeps
///     /frozen/index     as /index, for /frozen/value (only where there are frozen parameters)
///     /frozen/value     fp32 [elements]
///
/// `parameter` is a position in the manifest's list, offsets count elements. No padding, no
/// buckets: the file says nothing of the world size that wrote it.

#include <array>
#include <filesystem>
#include <optional>
#include <vector>

#include "checkpoint/hdf5_file.hpp"
#include "optimizer/sharded_state.hpp"

namespace shardmix::checkpoint {

/// A part of one parameter that a rank holds.
struct OwnedPiece {
  layout::Piece piece;
  std::size_t bucket = 0;  ///< in layout.buckets(), or in frozen_buckets()
};

/// What rank `rank` of `size` stores of the trainable, or of the frozen, parameters.
[[nodiscard]] std::vector<OwnedPiece> owned_pieces(const optimizer::ShardedState& state, int rank,
                                                   int size);
[[nodiscard]] std::vector<OwnedPiece> owned_frozen_pieces(const optimizer::ShardedState& state,
                                                          int rank, int size);

void write_shard(const std::filesystem::path& path, const optimizer::ShardedState& state, int rank,
                 int size);

/// One row of an index.
struct IndexRow {
  std::int64_t parameter = 0;
  std::int64_t offset = 0;
  std::int64_t here = 0;
  std::int64_t count = 0;
};

/// Most elements that are held beside the state while reading or writing.
inline constexpr std::int64_t staging_elements = std::int64_t{1} << 22;

class ShardReader {
 public:
  /// Opens the file and checks that its datasets are as long as its index says. Its checksum must
  /// have been verified.
  ShardReader(const std::filesystem::path& path, const std::vector<std::string>& states);

  [[nodiscard]] const std::vector<IndexRow>& rows() const noexcept { return rows_; }
  [[nodiscard]] const std::vector<IndexRow>& frozen_rows() const noexcept { return frozen_rows_; }

  /// Elements [here, here + count) of a state, as fp32.
  void read(optimizer::State state, std::int64_t here, std::int64_t count, float* values) const;
  void read_frozen(std::int64_t here, std::int64_t count, float* values) const;

 private:
  Hdf5File file_;
  std::vector<IndexRow> rows_;
  std::vector<IndexRow> frozen_rows_;
  std::array<std::optional<Dataset>, 4> states_;
  std::optional<Dataset> frozen_;
};

}  // namespace shardmix::checkpoint
