#pragma once

/// Quantities for people, in three digits.

#include <cstdint>
#include <string>

namespace shardmix::train {

/// "0 B", "1.50 KiB", "32.5 MiB": powers of 1024.
[[nodiscard]] std::string format_bytes(std::int64_t bytes);

/// "831", "12.3k", "4.56M": powers of 1000.
[[nodiscard]] std::string format_count(double count);

/// "45s", "3m05s", "2h07m".
[[nodiscard]] std::string format_duration(double seconds);

}  // namespace shardmix::train
