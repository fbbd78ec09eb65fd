#pragma once

/// All ways in which an update may keep its weights and its state, with memory for each, and an
/// oracle that goes from element to element.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "device/device.hpp"
#include "device/storage.hpp"
#include "math/block.hpp"

namespace shardmix::device {

inline constexpr std::int64_t block = math::block_elements;

struct Storage {
  DType dtype = fp32;
  WeightStorage weights = WeightStorage::parameter;
  StateStorage state = StateStorage::full;
  DType gradient_dtype = fp32;
};

/// Every combination that there is.
inline std::vector<Storage> all_storages() {
  std::vector<Storage> all;
  for (const StateStorage state : {StateStorage::full, StateStorage::compact}) {
    all.push_back({.state = state});
    for (const DType dtype : {bf16, fp16}) {
      for (const DType gradient_dtype : {fp32, dtype}) {
        for (const WeightStorage weights :
             {WeightStorage::parameter, WeightStorage::master, WeightStorage::remainder}) {
          if (weights == WeightStorage::remainder && dtype == fp16) continue;
          all.push_back({dtype, weights, state, gradient_dtype});
        }
      }
    }
  }
  return all;
}

inline std::string name_of(const Storage& s) {
  const char* weights = s.weights == WeightStorage::parameter ? ""
                        : s.weights == WeightStorage::master  ? " with master"
                                                              : " with remainder";
  return std::string(name_of(s.dtype)) + weights +
         (s.state == StateStorage::full ? ", full state" : ", compact state") + ", gradients in " +
         std::string(name_of(s.gradient_dtype));
}

/// The rules in all forms that keep different states.
inline std::vector<Rule> rules_of_each_form() {
  std::vector<Rule> rules = all_rules();
  rules.emplace_back(AdEMAMix{.beta1 = 0.0});
  return rules;
}

inline math::UpdateKernel kernel_of(const Rule& rule, const Group& group = {},
                                    std::int64_t step = 5) {
  return math::update_kernel(rule, group, {.step = step, .update = step, .slow_step = step});
}

/// An element with all that the engine knows of it.
struct Element {
  float gradient = 0.0f;
  float weight = 0.0f;
  math::Moments s = {};
};

/// The arrays of one update, in memory that a device and the host address. Values may be read and
/// written by name.
class Memory {
 public:
  Memory(Device& device, const Rule& rule, const Storage& storage, std::int64_t blocks)
      : states_(states_of(rule)), storage_(storage), elements_(blocks * block) {
    const auto room = [&](std::int64_t bytes) {
      return bytes == 0 ? nullptr : buffers_.emplace_back(device, bytes, MemoryKind::host).data();
    };
    buffers_.reserve(9);
    arrays_.weights = storage.weights;
    arrays_.state = storage.state;
    arrays_.dtype = storage.dtype;
    arrays_.gradient_dtype = storage.gradient_dtype;
    gradient_ = room(elements_ * size_of(storage.gradient_dtype));
    arrays_.gradients[0] = gradient_;
    const std::int64_t master = storage.weights == WeightStorage::master      ? 4
                                : storage.weights == WeightStorage::remainder ? 2
                                                                              : 0;
    first_compared_ = buffers_.size();
    arrays_.parameter = room(elements_ * size_of(storage.dtype));
    arrays_.master = room(elements_ * master);
    if (storage.state == StateStorage::full) {
      arrays_.m1 = reinterpret_cast<float*>(room(states_.m1 ? 4 * elements_ : 0));
      arrays_.m2 = reinterpret_cast<float*>(room(states_.m2 ? 4 * elements_ : 0));
      arrays_.v = reinterpret_cast<float*>(room(states_.v ? 4 * elements_ : 0));
    } else {
      arrays_.word_bytes = word_bytes_of(states_);
      arrays_.words = room(elements_ * arrays_.word_bytes);
      arrays_.scales = reinterpret_cast<math::BlockScales*>(
          room(blocks * std::int64_t{sizeof(math::BlockScales)}));
    }
    compared_ = buffers_.size();
    control_ = reinterpret_cast<UpdateControl*>(room(sizeof(UpdateControl)));
    *control_ = {.gradient_scale = 0.37f};
    arrays_.random = math::random_keys(12345, 6);
    arrays_.first_block = 1000;
  }

  [[nodiscard]] UpdateArrays& arrays() noexcept { return arrays_; }
  [[nodiscard]] const RuleStates& states() const noexcept { return states_; }
  [[nodiscard]] UpdateControl& control() noexcept { return *control_; }
  [[nodiscard]] std::int64_t elements() const noexcept { return elements_; }

  /// Random weights, states and gradients, whose scale differs between blocks and between elements.
  void fill(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<Element> all(static_cast<std::size_t>(elements_));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto b = static_cast<int>(i / static_cast<std::size_t>(block));
      const float scale = std::pow(10.0f, static_cast<float>(b % 5 - 2) + 0.5f * normal(random));
      all[i].gradient = normal(random) * scale;
      all[i].weight = 0.1f * normal(random);
      all[i].s = {normal(random) * scale, 0.1f * normal(random) * scale,
                  normal(random) * normal(random) * scale * scale};
      all[i].s.v = std::fabs(all[i].s.v);
    }
    write(all);
  }

  void write(const std::vector<Element>& all) {
    std::vector<float> values(all.size());
    const auto each = [&](auto value_of) {
      for (std::size_t i = 0; i < all.size(); ++i) values[i] = value_of(all[i]);
      return values.data();
    };
    for (std::size_t i = 0; i < all.size(); ++i) set_gradient(i, all[i].gradient);
    write_weights(arrays_, 0, elements_, each([](const Element& x) { return x.weight; }));
    if (states_.m1)
      write_state(arrays_, Moment::m1, 0, elements_, each([](const Element& x) { return x.s.m1; }));
    if (states_.m2)
      write_state(arrays_, Moment::m2, 0, elements_, each([](const Element& x) { return x.s.m2; }));
    if (states_.v)
      write_state(arrays_, Moment::v, 0, elements_, each([](const Element& x) { return x.s.v; }));
  }

  void set_gradient(std::size_t i, float value) {
    store_value(storage_.gradient_dtype, gradient_, static_cast<std::int64_t>(i), value);
  }

  [[nodiscard]] std::vector<Element> read() const {
    std::vector<Element> all(static_cast<std::size_t>(elements_));
    std::vector<float> values(all.size());
    const auto each = [&](auto put) {
      for (std::size_t i = 0; i < all.size(); ++i) put(all[i], values[i]);
    };
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i].gradient =
          load_value(storage_.gradient_dtype, gradient_, static_cast<std::int64_t>(i));
    read_weights(arrays_, 0, elements_, values.data());
    each([](Element& x, float value) { x.weight = value; });
    if (states_.m1) {
      read_state(arrays_, Moment::m1, 0, elements_, values.data());
      each([](Element& x, float value) { x.s.m1 = value; });
    }
    if (states_.m2) {
      read_state(arrays_, Moment::m2, 0, elements_, values.data());
      each([](Element& x, float value) { x.s.m2 = value; });
    }
    if (states_.v) {
      read_state(arrays_, Moment::v, 0, elements_, values.data());
      each([](Element& x, float value) { x.s.v = value; });
    }
    return all;
  }

  /// The bits of all that an update may write.
  [[nodiscard]] std::vector<std::byte> bits() const {
    std::vector<std::byte> all;
    for (std::size_t b = first_compared_; b < compared_; ++b)
      all.insert(all.end(), buffers_[b].data(), buffers_[b].data() + buffers_[b].bytes());
    return all;
  }

  /// Updates the blocks [begin, end) with one kernel, as a task of their own.
  void update(Device& device, const math::UpdateKernel& kernel, std::int64_t begin,
              std::int64_t end) {
    const UpdateRun run{(end - begin) * block, kernel};
    device.update(
        {.arrays = from_block(begin), .elements = run.end, .runs = {&run, 1}, .control = control_});
    device.synchronize();
  }
  void update(Device& device, const math::UpdateKernel& kernel) {
    update(device, kernel, 0, elements_ / block);
  }

  /// The arrays from a block on.
  [[nodiscard]] UpdateArrays from_block(std::int64_t first) const {
    UpdateArrays a = arrays_;
    const std::int64_t begin = first * block;
    const auto moved = []<class T>(T* data, std::int64_t bytes) {
      return data == nullptr ? nullptr
                             : reinterpret_cast<T*>(reinterpret_cast<std::intptr_t>(data) + bytes);
    };
    a.gradients[0] = moved(a.gradients[0], begin * size_of(a.gradient_dtype));
    a.parameter = moved(a.parameter, begin * size_of(a.dtype));
    a.master = moved(a.master, begin * (a.weights == WeightStorage::master ? 4 : 2));
    a.m1 = moved(a.m1, 4 * begin);
    a.m2 = moved(a.m2, 4 * begin);
    a.v = moved(a.v, 4 * begin);
    a.words = moved(a.words, begin * a.word_bytes);
    a.scales = moved(a.scales, first * std::int64_t{sizeof(math::BlockScales)});
    a.first_block += first;
    return a;
  }

 private:
  RuleStates states_;
  Storage storage_;
  std::int64_t elements_;
  std::vector<Buffer> buffers_;
  std::size_t first_compared_ = 0;
  std::size_t compared_ = 0;
  std::byte* gradient_ = nullptr;
  UpdateControl* control_ = nullptr;
  UpdateArrays arrays_;
};

}  // namespace shardmix::device
