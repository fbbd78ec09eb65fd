#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "device/device.hpp"
#include "math/compact.hpp"
#include "update_case.hpp"

namespace shardmix::device {
namespace {

using math::bits_from_float;

/// The random word of element i of a block.
std::uint32_t random_word(std::uint64_t key, std::int64_t block_number, std::uint32_t i) {
  const std::uint32_t own = math::block_key(key, block_number);
  return i < 128 ? math::random_bits(own, i) : math::second_half(math::random_bits(own, i - 128));
}

void store_state_by_element(const UpdateArrays& a, std::size_t first,
                            const std::vector<math::Moments>& states, std::int64_t block_number) {
  if (a.state == StateStorage::full) {
    for (std::size_t i = 0; i < states.size(); ++i) {
      if (a.m1 != nullptr) a.m1[first + i] = states[i].m1;
      if (a.m2 != nullptr) a.m2[first + i] = states[i].m2;
      if (a.v != nullptr) a.v[first + i] = states[i].v;
    }
    return;
  }
  math::Largest largest;
  for (const math::Moments& s : states) {
    largest.m1 = std::max(largest.m1, bits_from_float(std::fabs(s.m1)));
    largest.m2 = std::max(largest.m2, bits_from_float(std::fabs(s.m2)));
    largest.v = std::max(largest.v, bits_from_float(s.v));
  }
  const math::BlockScales scales = math::scales_for(largest);
  a.scales[first / static_cast<std::size_t>(block)] = scales;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const std::uint32_t word =
        math::packed(states[i], math::inverse(scales),
                     random_word(a.random.state, block_number, static_cast<std::uint32_t>(i)));
    // Little-endian: the upper bytes are the last.
    const auto bytes = static_cast<std::size_t>(a.word_bytes);
    std::memcpy(static_cast<std::byte*>(a.words) + (first + i) * bytes,
                reinterpret_cast<const std::byte*>(&word) + (4 - bytes), bytes);
  }
}

void store_weight_by_element(const UpdateArrays& a, std::size_t i, float weight,
                             std::int64_t block_number) {
  if (a.dtype == fp32) {
    static_cast<float*>(a.parameter)[i] = weight;
    return;
  }
  auto& parameter = static_cast<std::uint16_t*>(a.parameter)[i];
  if (a.weights == WeightStorage::parameter) {
    const std::uint32_t random =
        random_word(a.random.parameter, block_number,
                    static_cast<std::uint32_t>(i % static_cast<std::size_t>(block))) >>
        16;
    parameter = static_cast<std::uint16_t>(a.dtype == bf16 ? math::bf16_bits(weight, random)
                                                           : math::fp16_bits(weight, random));
    return;
  }
  parameter = a.dtype == bf16 ? math::bf16_from_float(weight) : math::fp16_from_float(weight);
  if (a.weights == WeightStorage::master) {
    static_cast<float*>(a.master)[i] = weight;
  } else {
    static_cast<std::uint16_t*>(a.master)[i] =
        static_cast<std::uint16_t>(math::remainder_of(weight));
  }
}

/// The oracle: reads all values, applies the rule to one after the other, and stores them.
void update_by_element(Memory& memory, const math::UpdateKernel& kernel) {
  const std::vector<Element> all = memory.read();
  const UpdateArrays& a = memory.arrays();
  const float scale = memory.control().gradient_scale;
  for (std::size_t first = 0; first < all.size(); first += static_cast<std::size_t>(block)) {
    const std::int64_t number = a.first_block + static_cast<std::int64_t>(first) / block;
    std::vector<math::Moments> states;
    for (std::size_t i = first; i < first + static_cast<std::size_t>(block); ++i) {
      math::Moments s = all[i].s;
      const float weight = std::visit(
          [&](const auto& k) {
            math::Roots roots;
            return k(all[i].gradient * scale, all[i].weight, s, roots);
          },
          kernel);
      states.push_back(s);
      store_weight_by_element(a, i, weight, number);
    }
    store_state_by_element(a, first, states, number);
  }
}

template <class Test>
void for_each_case(const Test& test) {
  for (const Rule& rule : rules_of_each_form()) {
    for (const Storage& storage : all_storages()) {
      SCOPED_TRACE(std::string(name_of(rule)) + ", " + name_of(storage));
      test(rule, storage);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(HostUpdate, IsTheRuleAppliedToEachElement) {
  const auto device = host_device(2);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    const auto kernel = kernel_of(rule);
    Memory run(*device, rule, storage, 7);
    Memory expected(*device, rule, storage, 7);
    run.fill(1);
    expected.fill(1);
    ASSERT_TRUE(run.bits() == expected.bits());
    for (int step = 0; step < 3; ++step) {
      const auto before = run.bits();
      run.update(*device, kernel);
      update_by_element(expected, kernel);
      ASSERT_TRUE(run.bits() == expected.bits()) << "step " << step;
      ASSERT_FALSE(run.bits() == before);
      run.arrays().random = expected.arrays().random = math::random_keys(12345, 7 + step);
    }
  });
}

TEST(HostUpdate, GivesTheSameBitsForEveryNumberOfThreadsAndEveryCut) {
  const auto one = host_device(1);
  const auto three = host_device(3);
  const auto many = host_device(64);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    const auto kernel = kernel_of(rule);
    Memory whole(*one, rule, storage, 37);
    Memory shared(*three, rule, storage, 37);
    Memory cut(*three, rule, storage, 37);
    for (Memory* memory : {&whole, &shared, &cut}) memory->fill(2);
    whole.update(*one, kernel);
    shared.update(*many, kernel);
    EXPECT_TRUE(whole.bits() == shared.bits());
    for (const auto& [begin, end] : {std::pair{0, 1}, {1, 1}, {20, 37}, {1, 20}})
      cut.update(*three, kernel, begin, end);
    EXPECT_TRUE(whole.bits() == cut.bits());
  });
}

TEST(HostUpdate, RunsAreTasksOfTheirOwn) {
  const auto device = host_device(3);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    const std::vector<math::UpdateKernel> kernels{
        kernel_of(rule), kernel_of(rule, {.lr_scale = 0.5, .weight_decay = 0.0}),
        kernel_of(rule, {.hyper_parameters = {{"beta2", 0.5}}})};
    const std::vector<std::int64_t> ends{4, 4, 5, 18, 19};  // an empty run among them
    Memory together(*device, rule, storage, 19);
    Memory apart(*device, rule, storage, 19);
    together.fill(3);
    apart.fill(3);
    std::vector<UpdateRun> runs;
    for (std::size_t r = 0; r < ends.size(); ++r)
      runs.push_back({ends[r] * block, kernels[r % kernels.size()]});
    device->update({.arrays = together.arrays(),
                    .elements = together.elements(),
                    .runs = runs,
                    .control = &together.control()});
    for (std::size_t r = 0; r < ends.size(); ++r)
      apart.update(*device, kernels[r % kernels.size()], r == 0 ? 0 : ends[r - 1], ends[r]);
    EXPECT_TRUE(together.bits() == apart.bits());
    Memory alike(*device, rule, storage, 19);
    alike.fill(3);
    alike.update(*device, kernels[0]);
    EXPECT_FALSE(together.bits() == alike.bits());
  });
}

TEST(HostUpdate, ASkipChangesNothing) {
  const auto device = host_device(2);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    Memory memory(*device, rule, storage, 3);
    memory.fill(4);
    memory.control().skip = 1;
    const auto before = memory.bits();
    memory.update(*device, kernel_of(rule));
    EXPECT_TRUE(memory.bits() == before);
    memory.control().skip = 0;
    memory.update(*device, kernel_of(rule));
    EXPECT_FALSE(memory.bits() == before);
  });
}

TEST(HostUpdate, OfNothingIsNothing) {
  const auto device = host_device(4);
  const UpdateRun run{0, kernel_of(AdEMAMix{})};
  const UpdateControl control;
  device->update({.arrays = {}, .elements = 0, .runs = {&run, 1}, .control = &control});
  device->update({.arrays = {}, .elements = 0, .runs = {}, .control = &control});
}

TEST(HostUpdate, RandomNumbersDependOnTheUpdateAndTheBlockAlone) {
  const auto device = host_device(1);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    const bool is_random = storage.state == StateStorage::compact ||
                           (storage.dtype != fp32 && storage.weights == WeightStorage::parameter);
    const auto bits_of = [&](std::uint64_t seed, std::int64_t update, std::int64_t first_block) {
      Memory memory(*device, rule, storage, 2);
      memory.fill(5);
      memory.arrays().random = math::random_keys(seed, update);
      memory.arrays().first_block = first_block;
      memory.update(*device, kernel_of(rule));
      return memory.bits();
    };
    const auto usual = bits_of(1, 2, 3);
    EXPECT_TRUE(bits_of(1, 2, 3) == usual);
    EXPECT_EQ(bits_of(2, 2, 3) != usual, is_random);
    EXPECT_EQ(bits_of(1, 3, 3) != usual, is_random);
    EXPECT_EQ(bits_of(1, 2, 4) != usual, is_random);
  });
}

/// Gradients of 10,000 steps: numbers from a table, of which each step takes another part.
class NoisyGradients {
 public:
  NoisyGradients() {
    std::mt19937 random(9);
    std::normal_distribution<float> normal(0.05f, 1.0f);
    for (float& x : table_) x = normal(random);
  }
  float operator()(int step, std::size_t i) const {
    return table_[(static_cast<std::size_t>(step) * 7919 + i * 31) % table_.size()] *
           scales_[i % 5];
  }

 private:
  static constexpr float scales_[] = {1e-4f, 1.0f, 1e-2f, 30.0f, 1e-6f};
  std::vector<float> table_ = std::vector<float>(65536);
};

TEST(HostUpdate, RemainderAndFp32MasterAreTheSameWeightsForTenThousandSteps) {
  const auto device = host_device(1);
  const NoisyGradients gradients;
  for (const Rule& rule : rules_of_each_form()) {
    Memory master(*device, rule, {.dtype = bf16, .weights = WeightStorage::master}, 2);
    Memory remainder(*device, rule, {.dtype = bf16, .weights = WeightStorage::remainder}, 2);
    master.fill(6);
    remainder.write(master.read());
    for (int step = 1; step <= 10'000; ++step) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(master.elements()); ++i) {
        master.set_gradient(i, gradients(step, i));
        remainder.set_gradient(i, gradients(step, i));
      }
      const auto kernel = kernel_of(rule, {}, step);
      master.update(*device, kernel);
      remainder.update(*device, kernel);
    }
    const auto a = master.read();
    const auto b = remainder.read();
    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_EQ(bits_from_float(a[i].weight), bits_from_float(b[i].weight)) << name_of(rule);
      ASSERT_EQ(static_cast<std::uint16_t*>(master.arrays().parameter)[i],
                static_cast<std::uint16_t*>(remainder.arrays().parameter)[i]);
    }
  }
}

bool all_finite(const std::vector<Element>& all) {
  return std::ranges::all_of(all, [](const Element& x) {
    return std::isfinite(x.weight) && std::isfinite(x.s.m1) && std::isfinite(x.s.m2) &&
           std::isfinite(x.s.v);
  });
}

/// Gradients from zero to the largest that may be used, in each of which all of a block, one
/// element, or each second one is that large.
float adverse_gradient(int step, std::size_t i, DType dtype) {
  const float huge = dtype == fp16 ? 65504.0f : dtype == bf16 ? 9.9e17f : math::largest_gradient;
  const float values[] = {0.0f,  huge,  1e-40f, -huge,  1e-45f, -1e-40f, 1.0f,
                          1e-8f, -0.0f, 1e10f,  -1e-3f, 6e-8f,  1e-30f,  -1e-20f};
  constexpr std::size_t count = std::size(values);
  const float of_step = values[static_cast<std::size_t>(step) % count];
  const float other = values[(static_cast<std::size_t>(step) / count + 5) % count];
  const std::size_t kind = i / static_cast<std::size_t>(block);
  const std::size_t within = i % static_cast<std::size_t>(block);
  const float value = kind == 0   ? of_step
                      : kind == 1 ? within == 77 ? of_step : other
                      : kind == 2 ? within % 2 == 0 ? of_step : -other
                                  : values[(within + static_cast<std::size_t>(step)) % count];
  return std::clamp(value, -huge, huge);
}

TEST(HostUpdate, NoUsableGradientMakesAStateOrWeightInfinite) {
  const auto device = host_device(1);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    Memory memory(*device, rule, storage, 4);
    memory.control().gradient_scale = 1.0f;
    memory.write(std::vector<Element>(static_cast<std::size_t>(memory.elements())));
    for (int step = 1; step <= 200; ++step) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(memory.elements()); ++i)
        memory.set_gradient(i, adverse_gradient(step, i, storage.gradient_dtype));
      memory.arrays().random = math::random_keys(1, step);
      memory.update(*device, kernel_of(rule, {}, step));
      const auto all = memory.read();
      for (const Element& x : all) ASSERT_TRUE(math::is_usable(x.gradient));
      ASSERT_TRUE(all_finite(all)) << "step " << step;
      for (const Element& x : all) ASSERT_LT(std::fabs(x.weight), 100.0f) << "step " << step;
    }
  });
}

TEST(HostUpdate, CompactStateOfNothingIsNothing) {
  const auto device = host_device(1);
  for (const Rule& rule : rules_of_each_form()) {
    for (const float gradient : {0.0f, 1e-40f, 1e-45f}) {
      Memory memory(*device, rule, {.state = StateStorage::compact}, 1);
      for (std::size_t i = 0; i < static_cast<std::size_t>(block); ++i)
        memory.set_gradient(i, gradient);
      memory.update(*device, kernel_of(rule, {}, 1));
      for (const Element& x : memory.read()) {
        EXPECT_EQ(x.s.m1, 0.0f);
        EXPECT_EQ(x.s.m2, 0.0f);
        EXPECT_EQ(x.s.v, 0.0f);
      }
    }
  }
}

TEST(HostUpdate, CompactStateThatIsNotKeptIsZero) {
  const auto device = host_device(1);
  const Rule rule = AdEMAMix{.beta1 = 0.0};
  Memory memory(*device, rule, {.state = StateStorage::compact}, 2);
  memory.fill(8);
  memory.update(*device, kernel_of(rule));
  std::vector<float> m1(static_cast<std::size_t>(memory.elements()));
  read_state(memory.arrays(), Moment::m1, 0, memory.elements(), m1.data());
  for (const float x : m1) ASSERT_EQ(x, 0.0f);
}

// A scale may come out one octave higher where the values are the same: what counts is that the
// values are, and so all later ones.
TEST(Storage, WhatWasReadIsStoredAsItWas) {
  const auto device = host_device(1);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    const auto kernel = kernel_of(rule);
    Memory memory(*device, rule, storage, 19);
    Memory copy(*device, rule, storage, 19);
    memory.fill(7);
    copy.fill(8);
    for (int step = 1; step < 20; ++step) {
      memory.arrays().random = copy.arrays().random = math::random_keys(5, step);
      memory.update(*device, kernel);
      const auto all = memory.read();
      copy.write(all);
      const auto again = copy.read();
      for (std::size_t i = 0; i < all.size(); ++i) {
        ASSERT_EQ(bits_from_float(all[i].weight), bits_from_float(again[i].weight));
        ASSERT_EQ(bits_from_float(all[i].s.m1), bits_from_float(again[i].s.m1));
        ASSERT_EQ(bits_from_float(all[i].s.m2), bits_from_float(again[i].s.m2));
        ASSERT_EQ(bits_from_float(all[i].s.v), bits_from_float(again[i].s.v));
      }
      memory.update(*device, kernel);
      copy.update(*device, kernel);
      ASSERT_TRUE(memory.bits() == copy.bits()) << "step " << step;
    }
  });
}

TEST(Storage, ReadsAndWritesPartsOfBlocks) {
  const auto device = host_device(1);
  for_each_case([&](const Rule& rule, const Storage& storage) {
    Memory memory(*device, rule, storage, 3);
    memory.fill(7);
    const auto all = memory.read();
    std::vector<float> part(101);
    read_weights(memory.arrays(), 301, 101, part.data());
    for (std::size_t i = 0; i < part.size(); ++i) ASSERT_EQ(part[i], all[301 + i].weight);
    write_weights(memory.arrays(), 301, 101, part.data());
    EXPECT_EQ(std::as_const(memory).read()[350].weight, all[350].weight);
    if (!memory.states().m2) return;
    read_state(memory.arrays(), Moment::m2, 301, 101, part.data());
    for (std::size_t i = 0; i < part.size(); ++i) ASSERT_EQ(part[i], all[301 + i].s.m2);
    read_state(memory.arrays(), Moment::m2, 256, 101, part.data());
    write_state(memory.arrays(), Moment::m2, 256, 101, part.data());
    const auto after = memory.read();
    for (std::size_t i = 0; i < 101; ++i)
      ASSERT_NEAR(after[256 + i].s.m2, all[256 + i].s.m2, 1e-3f * std::fabs(all[256 + i].s.m2));
    if (storage.state == StateStorage::compact) {
      for (std::size_t i = 357; i < 512; ++i) ASSERT_EQ(after[i].s.m2, 0.0f);
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(after[i].s.v, all[i].s.v);
      ASSERT_EQ(after[i].s.m1, all[i].s.m1);
    }
  });
}

}  // namespace
}  // namespace shardmix::device
