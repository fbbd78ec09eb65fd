#pragma once

/// The values of a checkpoint by parameter, whoever wrote which part of them. "master" is also
/// where the values of frozen parameters are. All functions throw CheckpointError that names the
/// file.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/contents.hpp"
#include "checkpoint/files.hpp"

namespace shardmix::checkpoint {

inline constexpr std::string_view master_name = "master";

/// Whether the checkpoint has values of this state for this parameter.
[[nodiscard]] bool has_values(const CheckpointInfo& info, const CheckpointParameter& parameter,
                              std::string_view state);

/// Gets the elements of parameter number `parameter` from `offset` on, at most 1 MiB of them.
using TakeValues = std::function<void(std::size_t parameter, const std::string& state,
                                      std::int64_t offset, std::span<const float> values)>;

/// Reads the values of these states in one pass over each file, and compares the checksum of each
/// block that it reads. What was taken is worthless if this throws.
void read_values(const OpenCheckpoint& checkpoint, const std::vector<std::string>& states,
                 const TakeValues& take);

/// Bytes that read_values() hands out.
[[nodiscard]] std::int64_t value_bytes(const CheckpointInfo& info,
                                       const std::vector<std::string>& states);

/// Reads values from anywhere, without comparing checksums: verify_file() comes first.
class ValueReader {
 public:
  /// `checkpoint` must outlive this.
  explicit ValueReader(const OpenCheckpoint& checkpoint);

  /// The elements of parameter number `parameter` from `offset` on.
  void read(std::size_t parameter, std::string_view state, std::int64_t offset,
            std::span<float> values);

 private:
  const File& open(std::size_t file);

  const OpenCheckpoint& checkpoint_;
  std::vector<std::vector<Piece>> pieces_;  ///< of each parameter, by offset
  std::optional<File> open_file_;           ///< the one read last: there may be more than a process
  std::size_t open_number_ = 0;             ///< may have open
};

}  // namespace shardmix::checkpoint
