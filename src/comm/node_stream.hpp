#pragma once

/// Bytes on their way from one rank to another of its node, in order, through memory that both
/// address. MPI has no part in it: the two ends may be threads beside those that call MPI.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

namespace shardmix::comm {

class NodeStream {
 public:
  /// What the two ends share, of NodeMemory: zeros at the beginning.
  static constexpr std::int64_t slots = 4;
  static constexpr std::int64_t slot_bytes = std::int64_t{1} << 20;
  static constexpr std::int64_t memory_bytes = 4096 + slots * slot_bytes;

  /// One end. An end that waits longer than `deadline` for the other throws CommError.
  NodeStream(std::byte* memory, std::chrono::milliseconds deadline);

  /// Waits for room, and lets `fill` write up to slot_bytes into it; it returns how many.
  void give(const std::function<std::int64_t(std::span<std::byte>)>& fill);
  /// Waits for so many bytes.
  void take(std::span<std::byte> to);

  /// No more comes, or is wanted: if the other end waits, or will, it throws CommError with this
  /// reason. From any thread.
  void close(std::string_view reason) noexcept;

 private:
  struct Shared;
  [[nodiscard]] std::span<std::byte> slot(std::int64_t number) const noexcept;
  void wait(const std::function<bool()>& done) const;

  Shared& shared_;
  std::chrono::milliseconds deadline_;
  std::int64_t used_ = 0;  ///< of the slot that is being taken
};

}  // namespace shardmix::comm
