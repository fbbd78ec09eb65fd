#include "bench/workload.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "device/storage.hpp"
#include "math/block.hpp"

namespace shardmix::bench {

using device::StateStorage;
using device::WeightStorage;

Workload::Workload(device::Device& device, const Rule& rule, const Precision& precision,
                   std::int64_t elements, DType gradient_dtype)
    : device_(device),
      rule_(rule),
      elements_(elements),
      control_(device, sizeof(device::UpdateControl)),
      pass_(device, elements) {
  arrays = {.weights = precision.weights,
            .state = precision.state,
            .dtype = precision.dtype,
            .gradient_dtype = gradient_dtype};
  std::byte* gradient = array(size_of(gradient_dtype), false);
  arrays.gradients[0] = gradient;
  arrays.parameter = array(size_of(precision.dtype), true);
  if (precision.weights != WeightStorage::parameter)
    arrays.master = array(precision.weights == WeightStorage::master ? 4 : 2, true);
  const RuleStates states = states_of(rule);
  if (precision.state == StateStorage::compact) {
    arrays.word_bytes = device::word_bytes_of(states);
    arrays.words = array(arrays.word_bytes, true);
    device::Buffer scales(
        device, elements / math::block_elements * std::int64_t{sizeof(math::BlockScales)});
    arrays.scales = reinterpret_cast<math::BlockScales*>(pass_.add(std::move(scales), true));
  } else {
    if (states.m1) arrays.m1 = reinterpret_cast<float*>(array(4, true));
    if (states.m2) arrays.m2 = reinterpret_cast<float*>(array(4, true));
    if (states.v) arrays.v = reinterpret_cast<float*>(array(4, true));
  }
  fill(device, gradient_dtype, gradient, elements, 1e-2f);
  fill(device, precision.dtype, arrays.parameter, elements, 1.0f);
  const device::UpdateControl control;
  device.copy(control_.data(), &control, sizeof control);
}

std::byte* Workload::array(std::int64_t bytes_per_element, bool written) {
  return pass_.add(device::Buffer(device_, bytes_per_element * elements_), written);
}

void Workload::update() {
  ++step_;
  arrays.random = math::random_keys(1, static_cast<std::uint64_t>(step_));
  const std::array<device::UpdateRun, 1> runs{
      {{.end = elements_,
        .kernel = math::update_kernel(rule_, Group{},
                                      {.step = step_, .update = step_, .slow_step = step_})}}};
  device_.update({.arrays = arrays,
                  .elements = elements_,
                  .runs = runs,
                  .control = control_.as<device::UpdateControl>()});
}

void fill(device::Device& device, DType dtype, void* to, std::int64_t elements, float size) {
  std::vector<std::byte> first(
      static_cast<std::size_t>(std::min(std::int64_t{1} << 20, elements) * size_of(dtype)));
  const auto bytes = static_cast<std::size_t>(elements * size_of(dtype));
  std::uint32_t state = 12345;
  for (std::int64_t i = 0; i * size_of(dtype) < std::ssize(first); ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = size * static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
    device::store_value(dtype, first.data(), i, value);
  }
  auto* memory = static_cast<std::byte*>(to);
  device.synchronize();
  device.copy(memory, first.data(), first.size());
  for (std::size_t done = first.size(); done < bytes; done *= 2)
    device.queue_copy(memory + done, memory, std::min(done, bytes - done));
}

}  // namespace shardmix::bench
