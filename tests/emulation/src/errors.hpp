#pragma once

/// Sentences on misuse and faults, and CUDA's error of each thread.

#include <fmt/format.h>

#include <string>

#include "emulated/types.hpp"

namespace emulation {

/// Prints "emulated GPU: ..." and ends the host process together with the device's.
[[noreturn]] void end_with(const std::string& sentence);

template <class... Args>
[[noreturn]] void fatal(fmt::format_string<Args...> format, Args&&... args) {
  end_with(fmt::format(format, std::forward<Args>(args)...));
}

/// A call that makes no sense: ends the process, or, where EMULATION_STRICT is 0, returns `error`.
[[nodiscard]] cudaError_t misused(cudaError_t error, const std::string& sentence);

template <class... Args>
[[nodiscard]] cudaError_t misuse(cudaError_t error, fmt::format_string<Args...> format,
                                 Args&&... args) {
  return misused(error, fmt::format(format, std::forward<Args>(args)...));
}

/// Keeps what cudaGetLastError() tells, and returns it.
cudaError_t noted(cudaError_t error);

/// Each function of the API goes through it: refuses calls from where CUDA can't be called.
[[nodiscard]] cudaError_t enter(const char* call);

/// Marks this thread as one that runs a host function: those may not call CUDA.
void set_in_host_function(bool is_in);

}  // namespace emulation
