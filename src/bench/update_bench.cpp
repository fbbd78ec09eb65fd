#include "bench/update_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <thread>

#include "bench/timing.hpp"
#include "bench/workload.hpp"
#include "math/block.hpp"
#include "shardmix/error.hpp"

namespace shardmix::bench {
namespace {

using math::block_elements;

void validate(const UpdateOptions& options) {
  if (options.parameters < block_elements || options.rounds < 1 || options.threads < 0) {
    throw ConfigError(
        fmt::format("bench update needs at least {} parameters, 1 round and 0 threads, but was "
                    "given {}, {} and {}",
                    block_elements, options.parameters, options.rounds, options.threads));
  }
}

/// A large copy within a GPU's memory, which moves more bytes a second than any other work. On a
/// host it is none: there a pass that writes where it reads is faster.
class Copy {
 public:
  /// As large as a pass over `moved` bytes, or large enough.
  Copy(device::Device& device, double moved) : device_(device) {
    if (device.is_host()) return;
    const auto bytes = std::min(static_cast<std::int64_t>(moved / 2.0), std::int64_t{1} << 31);
    from_ = device::Buffer(device, bytes);
    to_ = device::Buffer(device, bytes);
  }

  [[nodiscard]] bool is_there() const noexcept { return from_.bytes() > 0; }
  /// Read and written.
  [[nodiscard]] double bytes() const noexcept { return 2.0 * static_cast<double>(from_.bytes()); }
  void run() {
    device_.queue_copy(to_.data(), from_.data(), static_cast<std::size_t>(from_.bytes()));
  }

 private:
  device::Device& device_;
  device::Buffer from_;
  device::Buffer to_;
};

/// Seconds of one update and of its bound: medians over rounds in which they alternate.
struct Times {
  double update;
  double bound;
};

Times measure(device::Device& device, Workload& workload, double moved, int rounds) {
  Copy copy(device, moved);
  workload.update();
  device.synchronize();
  const double once = seconds([&] {
    workload.update();
    device.synchronize();
  });
  const int passes = std::max(1, static_cast<int>(0.05 / std::max(once, 1e-9)));
  const auto repeat = [&](const auto& work) {
    return seconds([&] {
             for (int i = 0; i < passes; ++i) work();
             device.synchronize();
           }) /
           passes;
  };
  std::vector<double> update;
  std::array<std::vector<double>, 2> stream;
  std::vector<double> copied;
  for (int round = 0; round < rounds; ++round) {
    update.push_back(repeat([&] { workload.update(); }));
    for (const bool by_block : {false, true})
      stream[by_block ? 1 : 0].push_back(repeat([&] { workload.pass().run(by_block); }));
    if (copy.is_there()) copied.push_back(moved / copy.bytes() * repeat([&] { copy.run(); }));
  }
  double bound = std::min(median(stream[0]), median(stream[1]));
  if (copy.is_there()) bound = std::min(bound, median(copied));
  return {median(update), bound};
}

}  // namespace

void run_update(const UpdateOptions& options, const Report& report) {
  validate(options);
  const std::vector<Rule> rules = rules_named(options.rules);
  const std::vector<Precision> chosen = precisions_named(options.precisions);

  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int threads = options.threads == 0 ? cores : options.threads;
  const bool on_host = options.device == DeviceKind::host;
  const auto device = on_host ? device::host_device(threads) : device::cuda_device(0);
  const std::int64_t elements = options.parameters / block_elements * block_elements;
  for (const Precision& precision : chosen) {
    for (const Rule& rule : rules) {
      Workload workload(*device, rule, precision, elements, precision.dtype);
      const double moved = workload.pass().bytes() * static_cast<double>(elements);
      const Times times = measure(*device, workload, moved, options.rounds);
      report({.operation = "update",
              .rule = std::string(name_of(rule)),
              .precision = std::string(precision.name),
              .device = device->description(),
              .threads = on_host ? threads : 0,
              .parameters = elements,
              .bytes_per_parameter = workload.pass().bytes(),
              .seconds = times.update,
              .bound_seconds = times.bound});
    }
  }
}

}  // namespace shardmix::bench
