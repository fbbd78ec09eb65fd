#include "device/storage.hpp"

#include <algorithm>
#include <array>
#include <span>

namespace shardmix::device {
using math::block_elements;

namespace {

/// Whether codes of this scale hold all values as they are.
bool holds(std::span<const float> values, Moment moment, float scale) {
  math::BlockScales scales;
  of(scales, moment) = scale;
  return std::ranges::all_of(values, [&](float x) {
    math::Moments s{};
    of(s, moment) = x;
    const math::Moments held =
        math::unpacked(math::packed(s, math::inverse(scales), math::nearest), scales);
    return math::bits_from_float(of(held, moment)) == math::bits_from_float(x);
  });
}

/// The scale for a block's values. Where the largest was rounded up to the last code, values that
/// were read tell only by the others that their scale was an octave lower than such a largest has.
float scale_for(std::span<const float> values, Moment moment) {
  math::Largest largest;
  std::uint32_t& own = of(largest, moment);
  for (const float x : values) own = std::max(own, math::magnitude_bits(x));
  const math::BlockScales scales = math::scales_for(largest);
  const float scale = of(scales, moment);
  return !holds(values, moment, scale) && holds(values, moment, 0.5f * scale) ? 0.5f * scale
                                                                              : scale;
}

template <int N>
void read_some_weights(const UpdateArrays& arrays, std::int64_t begin, float* to) noexcept {
  std::array<float, N> buffer;
  const float* weights = load_weights<N>(arrays, begin, buffer.data());
  std::copy_n(weights, N, to);
}

template <int N>
void write_some_weights(const UpdateArrays& arrays, std::int64_t begin,
                        const float* from) noexcept {
  constexpr auto halves = [] {  // of the random bits: the nearest
    std::array<std::uint32_t, N> all{};
    all.fill(0x80000000u);
    return all;
  }();
  std::array<float, N> buffer;
  float* weights = load_weights<N>(arrays, begin, buffer.data());
  std::copy_n(from, N, weights);
  store_weights<N>(arrays, begin, weights, halves.data());
}

}  // namespace

float load_value(DType dtype, const void* from, std::int64_t i) noexcept {
  float value = 0.0f;
  return *load_values<1>(dtype, from, i, &value);
}

void store_value(DType dtype, void* to, std::int64_t i, float value) noexcept {
  if (dtype == DType::fp32) {
    static_cast<float*>(to)[i] = value;
  } else {
    static_cast<std::uint16_t*>(to)[i] =
        dtype == DType::bf16 ? math::bf16_from_float(value) : math::fp16_from_float(value);
  }
}

void read_weights(const UpdateArrays& arrays, std::int64_t begin, std::int64_t count,
                  float* to) noexcept {
  std::int64_t i = 0;
  for (; i + block_elements <= count; i += block_elements)
    read_some_weights<block_elements>(arrays, begin + i, to + i);
  for (; i < count; ++i) read_some_weights<1>(arrays, begin + i, to + i);
}

void write_weights(const UpdateArrays& arrays, std::int64_t begin, std::int64_t count,
                   const float* from) noexcept {
  std::int64_t i = 0;
  for (; i + block_elements <= count; i += block_elements)
    write_some_weights<block_elements>(arrays, begin + i, from + i);
  for (; i < count; ++i) write_some_weights<1>(arrays, begin + i, from + i);
}

void read_state(const UpdateArrays& arrays, Moment moment, std::int64_t begin, std::int64_t count,
                float* to) noexcept {
  if (arrays.state == StateStorage::full) {
    std::copy_n(of(arrays, moment) + begin, count, to);
    return;
  }
  for (std::int64_t i = begin; i < begin + count; ++i) {
    std::uint32_t buffer = 0;
    const std::uint32_t word = *load_words<1>(arrays, i, &buffer);
    const math::Moments s = math::unpacked(word, arrays.scales[i / block_elements]);
    *to++ = of(s, moment);
  }
}

void write_state(const UpdateArrays& arrays, Moment moment, std::int64_t begin, std::int64_t count,
                 const float* from) noexcept {
  if (arrays.state == StateStorage::full) {
    std::copy_n(from, count, of(arrays, moment) + begin);
    return;
  }
  for (std::int64_t done = 0; done < count; done += block_elements) {
    const std::int64_t first = begin + done;
    // Not with the zeros behind them: v has no code for a zero beside other values.
    const std::span values(from + done,
                           static_cast<std::size_t>(std::min(block_elements, count - done)));
    std::array<float, block_elements> block{};
    std::ranges::copy(values, block.begin());
    math::BlockScales& scales = arrays.scales[first / block_elements];
    const math::BlockScales before = scales;
    of(scales, moment) = scale_for(values, moment);
    for (std::int64_t i = 0; i < block_elements; ++i) {
      std::uint32_t buffer = 0;
      math::Moments s = math::unpacked(*load_words<1>(arrays, first + i, &buffer), before);
      of(s, moment) = block[static_cast<std::size_t>(i)];
      std::uint32_t* word = words_at<1>(arrays, first + i, &buffer);
      *word = math::packed(s, math::inverse(scales), math::nearest);
      store_words<1>(arrays, first + i, word);
    }
  }
}

}  // namespace shardmix::device
