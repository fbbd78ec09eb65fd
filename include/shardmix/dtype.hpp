#pragma once

/// The element types that parameters and their gradients may have.

#include <array>
#include <cstdint>
#include <string_view>

namespace shardmix {

enum class DType : std::uint8_t { fp32, bf16, fp16 };

inline constexpr DType fp32 = DType::fp32;
inline constexpr DType bf16 = DType::bf16;
inline constexpr DType fp16 = DType::fp16;
inline constexpr std::array all_dtypes{fp32, bf16, fp16};

/// Bytes of one element.
[[nodiscard]] constexpr std::int64_t size_of(DType dtype) noexcept {
  return dtype == DType::fp32 ? 4 : 2;
}

/// "fp32", "bf16" or "fp16".
[[nodiscard]] constexpr std::string_view name_of(DType dtype) noexcept {
  constexpr std::array<std::string_view, all_dtypes.size()> names{"fp32", "bf16", "fp16"};
  return names[static_cast<std::size_t>(dtype)];
}

/// The inverse of name_of(). Throws ConfigError for any other text.
[[nodiscard]] DType dtype_named(std::string_view name);

}  // namespace shardmix
