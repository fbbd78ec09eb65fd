#pragma once

#include <string>

namespace emulation {

/// The name of a function of this program or one of its libraries, or its place there.
[[nodiscard]] std::string name_of_function(const void* function);

}  // namespace emulation
