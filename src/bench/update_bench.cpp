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

/// Seconds of one update and of one streaming pass: medians over rounds in which they alternate.
struct Times {
  double update;
  double stream;
};

Times measure(device::Device& device, Workload& workload, int rounds) {
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
  for (int round = 0; round < rounds; ++round) {
    update.push_back(repeat([&] { workload.update(); }));
    for (const bool by_block : {false, true})
      stream[by_block ? 1 : 0].push_back(repeat([&] { workload.pass().run(by_block); }));
  }
  return {median(update), std::min(median(stream[0]), median(stream[1]))};
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
      const Times times = measure(*device, workload, options.rounds);
      report({.operation = "update",
              .rule = std::string(name_of(rule)),
              .precision = std::string(precision.name),
              .device = device->description(),
              .threads = on_host ? threads : 0,
              .parameters = elements,
              .bytes_per_parameter = workload.pass().bytes(),
              .seconds = times.update,
              .bound_seconds = times.stream});
    }
  }
}

}  // namespace shardmix::bench
