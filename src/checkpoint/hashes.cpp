#include "checkpoint/hashes.hpp"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {

struct Hash::State {
  XXH3_state_t xxh3;
  Width width = Width::bits64;
};

Hash::Hash() : state_(new State) {
  begin(Width::bits64);
}
Hash::~Hash() = default;
Hash::Hash(Hash&&) noexcept = default;
Hash& Hash::operator=(Hash&&) noexcept = default;

void Hash::begin(Width width) {
  state_->width = width;
  if (width == Width::bits64)
    XXH3_64bits_reset(&state_->xxh3);
  else
    XXH3_128bits_reset(&state_->xxh3);
}

void Hash::add(std::span<const std::byte> bytes) {
  if (state_->width == Width::bits64)
    XXH3_64bits_update(&state_->xxh3, bytes.data(), bytes.size());
  else
    XXH3_128bits_update(&state_->xxh3, bytes.data(), bytes.size());
}

std::uint64_t Hash::bits64() const {
  return XXH3_64bits_digest(&state_->xxh3);
}

std::string Hash::digits128() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->xxh3);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string digits128_of(std::string_view text) {
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string digits_of(std::uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

std::uint64_t hash_of_digits(const std::string& digits) {
  std::uint64_t hash = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, hash, 16);
  if (digits.size() != 16 || error != std::errc{} || stop != end) {
    throw CheckpointError(fmt::format("'{}' isn't a checksum of 16 hexadecimal digits", digits));
  }
  return hash;
}

}  // namespace shardmix::checkpoint
