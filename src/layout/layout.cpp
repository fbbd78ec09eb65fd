#include "layout/layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "math/block.hpp"
#include "shardmix/error.hpp"

namespace shardmix::layout {
namespace {

using math::block_elements;

constexpr std::int64_t padded(std::int64_t elements) {
  return (elements + block_elements - 1) / block_elements * block_elements;
}

}  // namespace

Layout::Layout(const Parameters& parameters, std::int64_t bucket_elements) {
  if (bucket_elements <= 0 || bucket_elements % block_elements != 0) {
    throw ConfigError(fmt::format("bucket_elements must be a positive multiple of {}, but is {}",
                                  block_elements, bucket_elements));
  }
  place(parameters);
  cut_buckets(bucket_elements);
}

void Layout::place(const Parameters& parameters) {
  ranges_.resize(parameters.size());
  std::int64_t next = 0;
  std::int64_t next_byte = 0;
  for (std::size_t r = 0; r < regions_.size(); ++r) {
    Region& region = regions_[r];
    region.trainable = r < all_dtypes.size();
    region.dtype = all_dtypes[r % all_dtypes.size()];
    region.range.begin = next;
    region.byte_begin = next_byte;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      if (p.dtype != region.dtype || p.group.trainable != region.trainable) continue;
      ranges_[i] = {next, next + p.elements()};
      if (p.elements() > 0) by_begin_.push_back(i);
      next += padded(p.elements());
    }
    region.range.end = next;
    next_byte += region.range.size() * size_of(region.dtype);
    region.byte_end = next_byte;
  }
  for (const Parameter& p : parameters) {
    const auto found = std::ranges::find(groups_, p.group);
    group_of_.push_back(static_cast<std::size_t>(found - groups_.begin()));
    if (found == groups_.end()) groups_.push_back(p.group);
  }
}

void Layout::cut_buckets(std::int64_t bucket_elements) {
  for (const Region& region : regions_) {
    auto& list = region.trainable ? buckets_ : frozen_buckets_;
    for (std::int64_t begin = region.range.begin; begin < region.range.end;
         begin += bucket_elements) {
      list.push_back({.range = {begin, std::min(begin + bucket_elements, region.range.end)},
                      .dtype = region.dtype,
                      .trainable = region.trainable,
                      .byte_begin = byte_offset(begin)});
    }
  }
  // Regions interleave in the forward pass: order buckets by their first parameter's declaration.
  for (auto* list : {&buckets_, &frozen_buckets_}) {
    std::ranges::stable_sort(*list, {},
                             [&](const Bucket& b) { return pieces(b.range).front().parameter; });
  }
  buckets_of_.resize(ranges_.size());
  for (const auto* list : {&buckets_, &frozen_buckets_}) {
    for (std::size_t b = 0; b < list->size(); ++b) {
      for (const Piece& piece : pieces((*list)[b].range)) buckets_of_[piece.parameter].push_back(b);
    }
  }
}

std::int64_t Layout::byte_offset(std::int64_t element) const noexcept {
  const auto region =
      std::ranges::find_if(regions_, [&](const Region& r) { return element < r.range.end; });
  if (region == regions_.end()) return regions_.back().byte_end;
  return region->byte_begin + (element - region->range.begin) * size_of(region->dtype);
}

std::vector<Piece> Layout::pieces(Range range) const {
  std::vector<Piece> result;
  if (range.empty()) return result;
  auto next = std::ranges::partition_point(
      by_begin_, [&](std::size_t i) { return ranges_[i].end <= range.begin; });
  for (; next != by_begin_.end() && ranges_[*next].begin < range.end; ++next) {
    const Range own = ranges_[*next];
    const Range both = intersection(own, range);
    result.push_back({.parameter = *next,
                      .offset = both.begin - own.begin,
                      .begin = both.begin,
                      .count = both.size()});
  }
  return result;
}

std::vector<GroupRun> Layout::group_runs(Range range) const {
  std::vector<GroupRun> runs;
  for (const Piece& piece : pieces(range)) {
    const std::size_t group = group_of_[piece.parameter];
    const std::int64_t end = std::min(padded(piece.begin + piece.count), range.end);
    if (!runs.empty() && runs.back().group == group) {
      runs.back().range.end = end;
    } else {
      runs.push_back({.range = {piece.begin, end}, .group = group});
    }
  }
  return runs;
}

Range slice(const Bucket& bucket, int rank, int size) noexcept {
  const std::int64_t blocks = bucket.range.size() / block_elements;
  const auto cut = [&](int r) { return bucket.range.begin + blocks * r / size * block_elements; };
  return {cut(rank), cut(rank + 1)};
}

Shard shard(const Layout& layout, int rank, int size) {
  Shard result;
  for (const Bucket& bucket : layout.buckets()) {
    const Range range = slice(bucket, rank, size);
    result.slices.push_back({.range = range, .shard_begin = result.elements});
    result.elements += range.size();
  }
  return result;
}

}  // namespace shardmix::layout
