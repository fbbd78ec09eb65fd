#pragma once

/// What this library is and what it was built with.

#include <string>

namespace shardmix {

/// "major.minor.patch".
[[nodiscard]] const char* version() noexcept;

/// One line: the version and which of CUDA and NCCL are in.
[[nodiscard]] std::string build_description();

}  // namespace shardmix
