#include "bench/update_bench.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <thread>

#include "device/device.hpp"
#include "device/storage.hpp"
#include "math/block.hpp"
#include "shardmix/error.hpp"

namespace shardmix::bench {
namespace {

using device::Buffer;
using device::Device;
using device::StateStorage;
using device::WeightStorage;
using math::block_elements;

struct Precision {
  std::string_view name;
  std::string_view meaning;
  DType dtype;
  WeightStorage weights;
  StateStorage state;
};

constexpr std::array precisions{
    Precision{"fp32", "parameters and state in fp32", fp32, WeightStorage::parameter,
              StateStorage::full},
    Precision{"bf16", "bf16 parameters, 16 more bits as master, fp32 state", bf16,
              WeightStorage::remainder, StateStorage::full},
    Precision{"bf16-full", "bf16 parameters, fp32 master and state", bf16, WeightStorage::master,
              StateStorage::full},
    Precision{"bf16-stochastic", "bf16 parameters without master, fp32 state", bf16,
              WeightStorage::parameter, StateStorage::full},
    Precision{"fp16", "fp16 parameters, fp32 master and state", fp16, WeightStorage::master,
              StateStorage::full},
    Precision{"fp16-stochastic", "fp16 parameters without master, fp32 state", fp16,
              WeightStorage::parameter, StateStorage::full},
    Precision{"fp32-compact", "fp32 parameters, compact state", fp32, WeightStorage::parameter,
              StateStorage::compact},
    Precision{"bf16-compact", "bf16 parameters, 16 more bits as master, compact state", bf16,
              WeightStorage::remainder, StateStorage::compact},
    Precision{"bf16-compact-stochastic", "bf16 parameters without master, compact state", bf16,
              WeightStorage::parameter, StateStorage::compact},
};

const Precision& precision_named(const std::string& name) {
  const auto found = std::ranges::find(precisions, name, &Precision::name);
  if (found != precisions.end()) return *found;
  std::vector<std::string_view> names;
  for (const Precision& p : precisions) names.push_back(p.name);
  throw ConfigError(
      fmt::format("there is no precision '{}'; expected one of {}", name, fmt::join(names, ", ")));
}

void validate(const UpdateOptions& options) {
  if (options.parameters < block_elements || options.rounds < 1 || options.threads < 0) {
    throw ConfigError(
        fmt::format("bench update needs at least {} parameters, 1 round and 0 threads, but was "
                    "given {}, {} and {}",
                    block_elements, options.parameters, options.rounds, options.threads));
  }
}

/// The memory of one update, filled with plausible values.
class Workload {
 public:
  Workload(Device& device, const Rule& rule, const Precision& precision, std::int64_t elements)
      : device_(device),
        rule_(rule),
        elements_(elements),
        control_(device, sizeof(device::UpdateControl)) {
    arrays_ = {.weights = precision.weights,
               .state = precision.state,
               .dtype = precision.dtype,
               .gradient_dtype = precision.dtype};
    const std::int64_t width = size_of(precision.dtype);
    arrays_.gradients[0] = array(width, false);
    arrays_.parameter = array(width, true);
    if (precision.weights != WeightStorage::parameter)
      arrays_.master = array(precision.weights == WeightStorage::master ? 4 : 2, true);
    const RuleStates states = states_of(rule);
    if (precision.state == StateStorage::compact) {
      arrays_.word_bytes = device::word_bytes_of(states);
      arrays_.words = array(arrays_.word_bytes, true);
      const std::int64_t scales =
          elements / block_elements * std::int64_t{sizeof(math::BlockScales)};
      buffers_.emplace_back(device_, scales);
      arrays_.scales = buffers_.back().as<math::BlockScales>();
      bytes_ += 2.0 * sizeof(math::BlockScales) / block_elements;
    } else {
      if (states.m1) arrays_.m1 = static_cast<float*>(array(4, true));
      if (states.m2) arrays_.m2 = static_cast<float*>(array(4, true));
      if (states.v) arrays_.v = static_cast<float*>(array(4, true));
    }
    fill(const_cast<void*>(arrays_.gradients[0]), 1e-2f);
    fill(arrays_.parameter, 1.0f);
    *control_.as<device::UpdateControl>() = {};
  }

  [[nodiscard]] double bytes() const { return bytes_; }

  void update() {
    ++step_;
    arrays_.random = math::random_keys(1, step_);
    const std::array<device::UpdateRun, 1> runs{
        {{.end = elements_,
          .kernel = math::update_kernel(rule_, Group{},
                                        {.step = step_, .update = step_, .slow_step = step_})}}};
    device_.update({.arrays = arrays_,
                    .elements = elements_,
                    .runs = runs,
                    .control = control_.as<device::UpdateControl>()});
  }

  void stream(bool by_block) {
    device_.stream(
        {.arrays = streams_, .blocks = elements_ / block_elements, .by_block = by_block});
  }

 private:
  void* array(std::int64_t bytes_per_element, bool written) {
    buffers_.emplace_back(device_, bytes_per_element * elements_);
    streams_.push_back({.data = buffers_.back().data(),
                        .bytes_per_block = bytes_per_element * block_elements,
                        .written = written});
    bytes_ += static_cast<double>(bytes_per_element * (written ? 2 : 1));
    return buffers_.back().data();
  }

  /// Uniform numbers in [-size, size).
  void fill(void* to, float size) const {
    std::uint32_t state = 12345;
    for (std::int64_t i = 0; i < elements_; ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = size * static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
      device::store_value(arrays_.dtype, to, i, value);
    }
  }

  Device& device_;
  Rule rule_;
  std::int64_t elements_;
  Buffer control_;
  device::UpdateArrays arrays_;
  std::vector<Buffer> buffers_;
  std::vector<device::StreamArray> streams_;
  double bytes_ = 0.0;
  std::int64_t step_ = 0;
};

template <class Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Seconds of one update and of one streaming pass: medians over rounds in which they alternate.
struct Times {
  double update;
  double stream;
};

Times measure(Workload& workload, int rounds) {
  workload.update();
  const double once = seconds([&] { workload.update(); });
  const int passes = std::max(1, static_cast<int>(0.05 / std::max(once, 1e-9)));
  const auto repeat = [&](const auto& work) {
    return seconds([&] {
             for (int i = 0; i < passes; ++i) work();
           }) /
           passes;
  };
  std::vector<double> update;
  std::array<std::vector<double>, 2> stream;
  for (int round = 0; round < rounds; ++round) {
    update.push_back(repeat([&] { workload.update(); }));
    for (const bool by_block : {false, true})
      stream[by_block ? 1 : 0].push_back(repeat([&] { workload.stream(by_block); }));
  }
  return {median(update), std::min(median(stream[0]), median(stream[1]))};
}

}  // namespace

std::vector<PrecisionName> precision_names() {
  std::vector<PrecisionName> names;
  for (const Precision& p : precisions)
    names.push_back({std::string(p.name), std::string(p.meaning)});
  return names;
}

void run_update(const UpdateOptions& options,
                const std::function<void(const UpdateResult&)>& report) {
  validate(options);
  std::vector<Rule> rules;
  for (const std::string& name : options.rules) rules.push_back(rule_named(name));
  if (rules.empty()) rules = all_rules();
  std::vector<Precision> chosen;
  for (const std::string& name : options.precisions) chosen.push_back(precision_named(name));
  if (chosen.empty()) chosen.assign(precisions.begin(), precisions.end());

  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int threads = options.threads == 0 ? cores : options.threads;
  const bool on_host = options.device == DeviceKind::host;
  const auto device = on_host ? device::host_device(threads) : device::cuda_device(0);
  const std::int64_t elements = options.parameters / block_elements * block_elements;
  for (const Precision& precision : chosen) {
    for (const Rule& rule : rules) {
      Workload workload(*device, rule, precision, elements);
      const Times times = measure(workload, options.rounds);
      const auto n = static_cast<double>(elements);
      report({.rule = std::string(name_of(rule)),
              .precision = std::string(precision.name),
              .device = device->description(),
              .threads = on_host ? threads : 0,
              .parameters = elements,
              .bytes_per_parameter = workload.bytes(),
              .mparameters_per_second = n / times.update / 1e6,
              .gigabytes_per_second = n * workload.bytes() / times.update / 1e9,
              .bound_gigabytes_per_second = n * workload.bytes() / times.stream / 1e9});
    }
  }
}

}  // namespace shardmix::bench
