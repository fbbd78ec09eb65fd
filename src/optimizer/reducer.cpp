#include "optimizer/reducer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <exception>

#include "device/storage.hpp"

namespace shardmix::optimizer {
namespace {

/// Enough that a link is busy while sums are added.
constexpr std::size_t most_travelling = 4;

/// Most bytes of all ranks' gradients of an element that are worth reading twice.
constexpr std::int64_t most_bytes_twice = 8;

/// With `overlap` the trainer may write new gradients while others still update: they need the sum.
bool is_worth_reading_twice(const comm::Collectives& collectives, const layout::Layout& layout,
                            const OptimizerOptions& options) {
  return collectives.reads_in_place() && collectives.size() <= device::most_gradients &&
         options.micro_batches == 1 && !options.overlap && !options.shard_gradients &&
         std::ranges::all_of(layout.buckets(), [&](const layout::Bucket& bucket) {
           return collectives.size() * size_of(bucket.dtype) <= most_bytes_twice;
         });
}

}  // namespace

Reducer::Reducer(comm::Collectives& collectives, device::Device& device,
                 const Parameters& parameters, ShardedState& state, const OptimizerOptions& options)
    : collectives_(collectives),
      device_(device),
      parameters_(parameters),
      state_(state),
      most_under_way_(collectives.reads_in_place() ? state.layout().buckets().size()
                                                   : most_travelling),
      reads_twice_(is_worth_reading_twice(collectives, state.layout(), options)),
      keeps_gradients_(!options.shard_gradients),
      squares_(device, static_cast<std::int64_t>(sizeof(device::SquareSum)) *
                           (std::ssize(state.layout().buckets()) + 1)),
      control_(device, sizeof(device::UpdateControl)),
      outcome_(device, sizeof(device::UpdateControl), device::MemoryKind::host) {
  held_.resize(state.layout().buckets().size());
  begin_micro_batch();
}

/// In the middle of a step some ranks may have begun more reductions than others: all finish the
/// same ones, so that the next optimizer's find their partners.
Reducer::~Reducer() {
  if (std::uncaught_exceptions() == 0) {
    try {
      std::array<std::int64_t, 1> least{static_cast<std::int64_t>(next_)};
      collectives_.all_reduce_min(least);
      while (static_cast<std::int64_t>(next_) > least[0]) begin_next();
      for (const UnderWay& u : under_way_) (void)u.reduction->contributions();
      under_way_.clear();
      held_.clear();
      collectives_.wait_until_read(collectives_.reductions());
      if (device_.is_host()) return;
      // What is queued reads and writes memory of all ranks, which goes next.
      collectives_.wait_for_device();
      collectives_.barrier();
      return;
    } catch (const std::exception&) {  // the rank at fault is gone; who waits next meets it again
    }
  }
  // What is queued on a GPU may wait for ranks that are gone, and to free memory waits for that.
  if (!device_.is_host()) device::keep_memory();
}

void Reducer::begin_micro_batch() {
  names_left_.clear();
  parameters_left_.assign(state_.layout().buckets().size(), 0);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    names_left_.push_back(1 + std::ssize(parameters_[i].aliases));
    if (!parameters_[i].group.trainable) continue;
    for (const std::size_t bucket : state_.layout().buckets_of(i)) ++parameters_left_[bucket];
  }
  next_ = parameters_left_.size();
}

void Reducer::mark_ready(std::size_t parameter) {
  if (!parameters_[parameter].group.trainable || --names_left_[parameter] != 0) return;
  for (const std::size_t bucket : state_.layout().buckets_of(parameter)) --parameters_left_[bucket];
  advance();
}

void Reducer::advance() {
  for (;;) {
    while (!under_way_.empty() && under_way_.front().reduction->ready()) finish_oldest();
    if (next_ == 0 || parameters_left_[next_ - 1] != 0) break;
    if (under_way_.size() >= most_under_way_) {
      if (keeps_gradients_) break;
      finish_oldest();
    }
    begin_next();
  }
  discard_read();
  if (keeps_gradients_) return;
  while (std::ssize(under_way_) + std::ssize(reduced_) >= most_gradient_buckets) {
    if (reduced_.empty()) finish_oldest();
    collectives_.wait_until_read(reduced_.front().number);
    discard_read();
  }
}

void Reducer::discard_read() {
  while (!reduced_.empty() && collectives_.is_read(reduced_.front().number)) {
    const layout::Bucket& bucket = state_.layout().buckets()[reduced_.front().bucket];
    collectives_.discard(state_.gradient_at(bucket.range.begin),
                         bucket.range.size() * size_of(bucket.dtype));
    reduced_.pop_front();
  }
}

void Reducer::finish_micro_batch(bool last) {
  while (next_ > 0) {
    if (under_way_.size() >= most_under_way_) finish_oldest();
    begin_next();
  }
  while (!under_way_.empty()) finish_oldest();
  if (!last) store_held();
  if (!keeps_gradients_) {
    collectives_.wait_until_read(collectives_.reductions());
    discard_read();
  }
  ++micro_batches_;
  if (last) join_partials();
  step_begun_ = !last;
  begin_micro_batch();
}

void Reducer::begin_next() {
  if (!step_begun_) {
    step_begun_ = true;
    micro_batches_ = 0;
  }
  if (next_ == held_.size()) zero_squares();
  --next_;
  device_.follow_trainer();
  auto reduction = collectives_.begin_reduce(state_.sliced_gradients(next_));
  under_way_.push_back({next_, std::move(reduction), collectives_.reductions()});
}

void Reducer::finish_oldest() {
  UnderWay oldest = std::move(under_way_.front());
  under_way_.pop_front();
  if (!keeps_gradients_) reduced_.push_back({oldest.bucket, oldest.number});
  const comm::Contributions sources = oldest.reduction->contributions();
  if (reads_twice_ && micro_batches_ == 0) {
    run(oldest.bucket, {.sources = sources.arrays, .dtype = sources.dtype});
    held_[oldest.bucket] = std::move(oldest.reduction);
    return;
  }
  // A binary counter: with every 1 at the low end of the count a subtree is complete, and is
  // joined.
  const auto before = static_cast<std::uint64_t>(micro_batches_);
  const auto held = static_cast<std::size_t>(std::popcount(before));
  const auto joined = static_cast<std::size_t>(std::countr_one(before));
  add(oldest.bucket, sources, held - joined, held);
}

void Reducer::add(std::size_t bucket, const comm::Contributions& sources, std::size_t begin,
                  std::size_t end) {
  state_.reserve_levels(begin + 1);
  std::vector<const float*> partials;
  for (std::size_t level = begin; level < end; ++level)
    partials.push_back(state_.reduced_gradient(bucket, level));
  run(bucket, {.sources = sources.arrays,
               .dtype = sources.dtype,
               .partials = partials,
               .sum = state_.reduced_gradient(bucket, begin)});
}

/// Reduces a bucket's slice, and adds to the sum of its squares.
void Reducer::run(std::size_t bucket, const device::ReduceTask& task) {
  const device::Range range(device_, "shardmix reduce");
  device::ReduceTask whole = task;
  whole.elements = state_.shard().slices[bucket].range.size();
  whole.squares = squares(bucket);
  device_.reduce(whole);
}

void Reducer::zero_squares() {
  device_.zero(squares(0), held_.size() * sizeof(device::SquareSum));
}

/// Stores the sums that were only looked at: more micro-batches come.
void Reducer::store_held() {
  for (std::size_t bucket = 0; bucket < held_.size(); ++bucket) {
    if (held_[bucket] == nullptr) continue;
    add(bucket, held_[bucket]->contributions(), 0, 0);
    held_[bucket].reset();
  }
}

void Reducer::release() {
  for (auto& reduction : held_) reduction.reset();
}

void Reducer::set_gradient(std::size_t bucket, device::UpdateArrays& arrays) {
  if (held_[bucket] == nullptr) return;
  const comm::Contributions sources = held_[bucket]->contributions();
  arrays.gradient_dtype = sources.dtype;
  arrays.gradient_count = static_cast<std::int32_t>(sources.arrays.size());
  std::ranges::copy(sources.arrays, arrays.gradients);
}

/// Joins what is left on several levels, where the number of micro-batches is no power of two.
void Reducer::join_partials() {
  const auto held =
      static_cast<std::size_t>(std::popcount(static_cast<std::uint64_t>(micro_batches_)));
  if (held == 1) return;
  zero_squares();
  for (std::size_t bucket = 0; bucket < held_.size(); ++bucket) {
    const std::array<const void*, 1> top{state_.reduced_gradient(bucket, held - 1)};
    add(bucket, {.arrays = top, .dtype = DType::fp32}, 0, held - 1);
  }
}

void Reducer::decide(double mean, double clip_norm) {
  device::SquareSum* all = squares(held_.size());
  device_.add_sums(squares(0), std::ssize(held_), all);
  collectives_.add_up(all);
  device_.decide({.squares = all,
                  .mean = mean,
                  .clip_norm = clip_norm,
                  .control = control_.as<device::UpdateControl>(),
                  .copy = outcome_.as<device::UpdateControl>()});
}

device::UpdateControl Reducer::outcome() {
  collectives_.wait_for_device(&device::Device::is_decided);
  return *outcome_.as<device::UpdateControl>();
}

std::string Reducer::describe_unusable() {
  store_held();
  collectives_.wait_for_device();
  // The first element of the layout whose sum is bad, on whichever rank it lies.
  std::array<std::int64_t, 1> first{state_.layout().gradient_bytes() + 1};
  float sum = 0.0f;
  std::vector<float> sums;
  for (std::size_t b = 0; b < held_.size(); ++b) {
    const layout::Range range = state_.shard().slices[b].range;
    if (range.begin >= first[0]) continue;
    sums.resize(static_cast<std::size_t>(range.size()));
    device_.copy(sums.data(), state_.reduced_gradient(b), sums.size() * sizeof(float));
    const auto bad = std::ranges::find_if_not(sums, [](float x) { return math::is_usable(x); });
    if (bad == sums.end()) continue;
    first[0] = range.begin + (bad - sums.begin());
    sum = *bad;
  }
  const std::int64_t own = first[0];
  collectives_.all_reduce_min(first);
  const layout::Piece where = state_.layout().pieces({first[0], first[0] + 1}).at(0);
  const Parameter& parameter = parameters_[where.parameter];

  // Its owner tells the value, and every rank whether the last micro-batch's gradient there was its
  // doing.
  std::array<std::int64_t, 1> owner{own == first[0] ? collectives_.rank() : collectives_.size()};
  collectives_.all_reduce_min(owner);
  collectives_.broadcast(std::as_writable_bytes(std::span(&sum, 1)), static_cast<int>(owner[0]));
  float value = 0.0f;  // or 16 bits of it
  device_.copy(&value, state_.gradient_at(first[0]),
               static_cast<std::size_t>(size_of(parameter.dtype)));
  const float here = device::load_value(parameter.dtype, &value, 0);
  std::array<std::int64_t, 1> culprit{math::is_usable(here) ? collectives_.size()
                                                            : collectives_.rank()};
  collectives_.all_reduce_min(culprit);
  const std::string from = !keeps_gradients_ ? "a rank that isn't known (gradients are sharded)"
                           : culprit[0] == collectives_.size() ? "no single rank's last micro-batch"
                                                               : fmt::format("rank {}", culprit[0]);
  return fmt::format(
      "the gradient of '{}' is {} at element {} (of {}), from {}; the step was skipped on all "
      "ranks",
      parameter.name, sum, where.offset, parameter.elements(), from);
}

}  // namespace shardmix::optimizer
