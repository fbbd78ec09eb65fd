#pragma once

/// Checksums: XXH3 in 64 bits for a block of a file, in 128 bits for a whole one.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace shardmix::checkpoint {

/// Takes bytes in pieces. Either of the results, at any time, of all bytes since begin().
class Hash {
 public:
  Hash();
  ~Hash();
  Hash(Hash&&) noexcept;
  Hash& operator=(Hash&&) noexcept;

  enum class Width : std::uint8_t { bits64, bits128 };
  void begin(Width width);
  void add(std::span<const std::byte> bytes);
  [[nodiscard]] std::uint64_t bits64() const;
  /// 32 hexadecimal digits, as xxh128sum prints them.
  [[nodiscard]] std::string digits128() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// digits128() of a text.
[[nodiscard]] std::string digits128_of(std::string_view text);

/// 16 hexadecimal digits, and back. Throws CheckpointError.
[[nodiscard]] std::string digits_of(std::uint64_t hash);
[[nodiscard]] std::uint64_t hash_of_digits(const std::string& digits);

}  // namespace shardmix::checkpoint
