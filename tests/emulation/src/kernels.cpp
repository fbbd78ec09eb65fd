// Launches: the host checks and submits them, a stream's worker runs the grid block by block in an
// order of its own.

#include <cstring>
#include <numeric>

#include "block.hpp"
#include "counting.hpp"
#include "errors.hpp"
#include "faults.hpp"
#include "queue.hpp"
#include "streams.hpp"

namespace emulation {
namespace {

struct Launch {
  Kernel kernel;
  dim3 grid;
  dim3 block;
};
constexpr std::size_t bound_offset = 128;
static_assert(sizeof(Launch) <= bound_offset);

/// Numbers below `count`, each once, in a random order.
class RandomOrder {
 public:
  explicit RandomOrder(std::uint64_t count)
      : count_(count), first_(random_bits() % count), step_(random_bits() % count) {
    while (std::gcd(step_, count_) != 1) ++step_;
  }
  [[nodiscard]] std::uint64_t at(std::uint64_t i) const {
    return (first_ + i % count_ * (step_ % count_)) % count_;
  }

 private:
  std::uint64_t count_;
  std::uint64_t first_;
  std::uint64_t step_;
};

void run_grid(std::byte* payload) {
  thread_local bool has_signal_stack = false;
  if (!has_signal_stack) give_signal_stack();
  has_signal_stack = true;
  auto& launch = *reinterpret_cast<Launch*>(payload);
  launch.kernel.bound = payload + bound_offset;
  gridDim = launch.grid;
  const std::uint64_t count = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  const RandomOrder order(count);
  const std::uint64_t interrupted = random_bits() % count;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t number = order.at(i);
    if (i == interrupted) delay();
    const auto x = static_cast<unsigned>(number % launch.grid.x);
    const std::uint64_t rest = number / launch.grid.x;
    Block::current().run(launch.kernel,
                         {x, static_cast<unsigned>(rest % launch.grid.y),
                          static_cast<unsigned>(rest / launch.grid.y)},
                         launch.block);
  }
}

cudaError_t check(const cudaLaunchConfig_t& config) {
  const dim3& grid = config.gridDim;
  const dim3& block = config.blockDim;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || blocks == 0 || grid.x > 0x7FFFFFFFu ||
      grid.y > 65535 || grid.z > 65535 || blocks > 0xFFFFFFFFu) {
    return misuse(cudaErrorInvalidConfiguration,
                  "a kernel was launched with {} x {} x {} blocks of {} x {} x {} threads", grid.x,
                  grid.y, grid.z, block.x, block.y, block.z);
  }
  if (config.dynamicSmemBytes != 0) {
    return misuse(cudaErrorNotSupported,
                  "a kernel was launched with {} bytes of dynamic shared memory, which isn't "
                  "emulated",
                  config.dynamicSmemBytes);
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const Kernel& kernel) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(config.stream, "cudaLaunchKernelEx", stream));
  EMULATION_TRY(check(config));
  const Launch head{kernel, config.gridDim, config.blockDim};
  Command made{run_grid, std::vector<std::byte>(bound_offset + kernel.bytes)};
  std::memcpy(made.payload.data(), &head, sizeof head);
  std::memcpy(made.payload.data() + bound_offset, kernel.bound, kernel.bytes);
  count(&Counts::launches);
  return submit(*stream, made);
}

}  // namespace emulation
