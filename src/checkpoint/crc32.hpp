#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace shardmix::checkpoint {

/// The checksum of zlib, PNG and Ethernet, which other programs have at hand (in Python:
/// zlib.crc32). `before` is that of the bytes before; 0: there are none.
[[nodiscard]] std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before = 0);

}  // namespace shardmix::checkpoint
