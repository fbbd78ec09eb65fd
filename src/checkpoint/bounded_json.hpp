#pragma once

/// JSON from elsewhere, of a manifest or another program's file.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

namespace shardmix::checkpoint {

/// Parses a text that may have been made to do harm. Refuses what would exhaust the stack, memory
/// or time, and what could mean two things: nesting, values and members beyond bounds, a key that
/// is in an object twice, zero bytes. Strings are valid UTF-8. `Json` is nlohmann::ordered_json,
/// whose objects may have 1,000 members, as each key is looked for among all before it, or
/// nlohmann::json. Throws CheckpointError with a sentence about "it".
template <class Json>
[[nodiscard]] Json parse_bounded(std::string_view text);

/// The integer at `key`. Throws CheckpointError where there is none: nlohmann::json would cut
/// fractions off and wrap what is too large.
template <class Json>
[[nodiscard]] std::int64_t integer_at(const Json& object, const char* key);

/// The same of a value.
template <class Json>
[[nodiscard]] std::int64_t integer_of(const Json& value, std::string_view what);

}  // namespace shardmix::checkpoint
