#pragma once

/// Launches of kernels, and what depends on their types.

#include <cstddef>
#include <tuple>
#include <type_traits>

#include "emulated/api.hpp"

namespace emulation {

/// A kernel with its arguments, as a thread of the device calls it.
struct Kernel {
  const void* function = nullptr;
  void (*call)(const void* bound) = nullptr;
  const void* bound = nullptr;  ///< copied, byte by byte
  std::size_t bytes = 0;
};

cudaError_t launch(const cudaLaunchConfig_t& config, const Kernel& kernel);
cudaError_t resident_blocks(int* blocks, int threads, std::size_t shared_bytes);

template <class... Parameters>
struct Bound {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;
};

}  // namespace emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...),
                "a kernel's arguments are copied byte by byte");
  using Bound = emulation::Bound<Parameters...>;
  const Bound bound{kernel, {static_cast<Arguments&&>(arguments)...}};
  return emulation::launch(*config, {reinterpret_cast<const void*>(kernel),
                                     [](const void* all) {
                                       const auto& own = *static_cast<const Bound*>(all);
                                       std::apply(own.kernel, own.arguments);
                                     },
                                     &bound, sizeof bound});
}

template <class Function>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* /*kernel*/,
                                                          int threads, std::size_t shared_bytes) {
  return emulation::resident_blocks(blocks, threads, shared_bytes);
}
