#pragma once

/// Compares two devices that must give the same bits.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "update_case.hpp"

namespace shardmix::device {

/// Three updates, in three runs of groups, of every rule in every storage.
inline void expect_same_updates(Device& device, Device& other) {
  for (const Rule& rule : rules_of_each_form()) {
    for (const Storage& storage : all_storages()) {
      SCOPED_TRACE(std::string(name_of(rule)) + ", " + name_of(storage));
      Memory ours(device, rule, storage, 11);
      Memory others(other, rule, storage, 11);
      ours.fill(1);
      others.fill(1);
      for (int step = 1; step <= 3; ++step) {
        const auto before = ours.bits();
        const std::vector<UpdateRun> runs{
            {3 * block, kernel_of(rule, {}, step)},
            {4 * block, kernel_of(rule, {.lr_scale = 2.0, .weight_decay = 0.0}, step)},
            {11 * block, kernel_of(rule, {.hyper_parameters = {{"beta2", 0.9}}}, step)}};
        ours.arrays().random = others.arrays().random = math::random_keys(77, step);
        device.update({.arrays = ours.arrays(),
                       .elements = ours.elements(),
                       .runs = runs,
                       .control = &ours.control()});
        other.update({.arrays = others.arrays(),
                      .elements = others.elements(),
                      .runs = runs,
                      .control = &others.control()});
        device.synchronize();
        other.synchronize();
        ASSERT_FALSE(ours.bits() == before);
        ASSERT_TRUE(ours.bits() == others.bits()) << "step " << step;
      }
      const auto before = others.bits();
      others.control().skip = 1;
      others.update(other, kernel_of(rule));
      ASSERT_TRUE(others.bits() == before);
    }
  }
}

/// Sums of gradients of every dtype from up to nine ranks, with partial sums and bad gradients; and
/// the squares of one alone.
inline void expect_same_reductions(Device& device, Device& other) {
  constexpr std::int64_t blocks = 7;
  constexpr std::int64_t elements = blocks * block;
  constexpr int most = 9;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const DType dtype : all_dtypes) {
    std::vector<std::vector<Buffer>> all;  // of either device: sources, partials, sum, squares
    for (Device* d : {&device, &other}) {
      auto& own = all.emplace_back();
      const auto add = [&](std::int64_t bytes) { own.emplace_back(*d, bytes, MemoryKind::host); };
      for (int r = 0; r < most; ++r) add(elements * size_of(dtype));
      for (int p = 0; p < 2; ++p) add(elements * 4);
      add(elements * 4);
      add(sizeof(SquareSum));
    }
    for (std::size_t b = 0; b < most + 2; ++b) {
      const DType own = b < most ? dtype : fp32;
      for (std::int64_t i = 0; i < elements; ++i) {
        float value = normal(random) * std::pow(10.0f, static_cast<float>(i % 7 - 3));
        if (b == 1 && i == 2 * block + 33) value = std::numeric_limits<float>::infinity();
        if (b == 0 && i == 4 * block + 255) value = std::nanf("");
        if (b == 0 && i == 5 * block + 7) value = 1.1f * math::largest_gradient;
        if (b == 0 && i >= 6 * block + 30 && i < 6 * block + 34 && dtype != fp16)
          value = math::largest_gradient;  // still usable, if bf16 rounds it down
        store_value(own, all[0][b].data(), i, value);
        store_value(own, all[1][b].data(), i, value);
      }
    }
    for (std::size_t count = 1; count <= most; ++count) {
      for (std::size_t partials = 0; partials <= 2; ++partials) {
        for (auto& own : all) {
          std::vector<const void*> sources;
          std::vector<const float*> added;
          for (std::size_t r = 0; r < count; ++r) sources.push_back(own[r].data());
          for (std::size_t p = 0; p < partials; ++p) added.push_back(own[most + p].as<float>());
          Device& d = &own == all.data() ? device : other;
          d.zero(own[most + 3].data(), sizeof(SquareSum));
          d.reduce({.sources = sources,
                    .dtype = dtype,
                    .elements = elements,
                    .partials = added,
                    .sum = own[most + 2].as<float>(),
                    .squares = own[most + 3].as<SquareSum>()});
          d.synchronize();
        }
        for (std::int64_t i = 0; i < elements; ++i) {
          const float ours = all[0][most + 2].as<float>()[i];
          const float others = all[1][most + 2].as<float>()[i];
          if (std::isnan(ours) && std::isnan(others)) continue;  // whose bits may differ
          ASSERT_EQ(math::bits_from_float(ours), math::bits_from_float(others))
              << count << " sources, " << partials << " partial sums, element " << i;
        }
        const auto* ours = all[0][most + 3].as<SquareSum>();
        const auto* others = all[1][most + 3].as<SquareSum>();
        ASSERT_TRUE(std::ranges::equal(ours->digits, others->digits));
        ASSERT_EQ(ours->unusable, count > 1 ? 3 : 2);
        ASSERT_EQ(ours->unusable, others->unusable);
      }
    }
    for (std::size_t r = 0; r < most; ++r) {
      for (auto& own : all) {
        const std::vector<const void*> source{own[r].data()};
        Device& d = &own == all.data() ? device : other;
        d.zero(own[most + 3].data(), sizeof(SquareSum));
        d.reduce({.sources = source,
                  .dtype = dtype,
                  .elements = elements,
                  .squares = own[most + 3].as<SquareSum>()});
        d.synchronize();
      }
      const auto* ours = all[0][most + 3].as<SquareSum>();
      const auto* others = all[1][most + 3].as<SquareSum>();
      ASSERT_TRUE(std::ranges::equal(ours->digits, others->digits)) << "source " << r;
      ASSERT_EQ(ours->unusable, others->unusable) << "source " << r;
    }
  }
}

}  // namespace shardmix::device
