#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "math/update_rules.hpp"
#include "optimizer/optimizer_impl.hpp"
#include "shardmix/error.hpp"

namespace shardmix {
namespace {

std::string describe(const Parameter& p) {
  std::string numbers;
  for (const auto& [name, value] : p.group.hyper_parameters)
    numbers += fmt::format(", {} {}", name, value);
  return fmt::format("'{}' ({}) {}, group {} {} {}{}, also named [{}]", p.name,
                     fmt::join(p.shape, ", "), name_of(p.dtype), p.group.lr_scale,
                     p.group.weight_decay.value_or(-1.0), p.group.trainable, numbers,
                     fmt::join(p.aliases, ", "));
}

std::int64_t hash_of(const std::string& text) {
  return static_cast<std::int64_t>(std::hash<std::string>{}(text) >> 1);
}

/// Throws ConfigError on all ranks unless they declared the same parameters and options.
void require_same_everywhere(comm::Collectives& collectives, const Parameters& parameters,
                             const OptimizerOptions& options) {
  const auto count = static_cast<std::int64_t>(parameters.size());
  std::array<std::int64_t, 2> counts{count, -count};
  collectives.all_reduce_max(counts);
  if (counts[0] != -counts[1]) {
    throw ConfigError(
        fmt::format("the ranks declared different numbers of parameters, from {} to {}; all must "
                    "declare the same list",
                    -counts[1], counts[0]));
  }
  std::vector<std::int64_t> least;
  for (const Parameter& p : parameters) least.push_back(hash_of(describe(p)));
  least.push_back(
      hash_of(fmt::format("{} {} {} {} {} {} {} {} {}", options.clip_norm, options.micro_batches,
                          options.shard_gradients, static_cast<int>(options.master),
                          static_cast<int>(options.state), options.bucket_elements, options.seed,
                          options.loss_scaling.initial, options.loss_scaling.growth_interval)));
  std::vector<std::int64_t> largest = least;
  collectives.all_reduce_min(least);
  collectives.all_reduce_max(largest);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (least[i] == largest[i]) continue;
    throw ConfigError(fmt::format(
        "parameter {} differs between the ranks; rank {} has {}; all must declare the same list", i,
        collectives.rank(), describe(parameters[i])));
  }
  if (least.back() != largest.back())
    throw ConfigError("the ranks were given different optimizer options; all must be equal");
}

std::unique_ptr<ShardedOptimizer::Impl> make_impl(Runtime& runtime, Parameters parameters,
                                                  const Rule& rule,
                                                  const OptimizerOptions& options) {
  comm::Collectives& collectives = runtime.impl().collectives();
  comm::agreed(collectives, [&] {
    optimizer::validate_for(rule, parameters);
    if (!(options.clip_norm >= 0.0)) {
      throw ConfigError(fmt::format("clip_norm must be above 0, or 0 for no clipping, but is {}",
                                    options.clip_norm));
    }
    if (options.micro_batches < 1) {
      throw ConfigError(
          fmt::format("micro_batches must be at least 1, but is {}", options.micro_batches));
    }
    const LossScaling& scaling = options.loss_scaling;
    if (!(std::isfinite(scaling.initial) && scaling.initial >= 1.0)) {
      throw ConfigError(fmt::format("loss_scaling.initial must be at least 1 and finite, but is {}",
                                    scaling.initial));
    }
    if (scaling.growth_interval < 0) {
      throw ConfigError(
          fmt::format("loss_scaling.growth_interval must be at least 0 (0: a constant scale), but "
                      "is {}",
                      scaling.growth_interval));
    }
  });
  require_same_everywhere(collectives, parameters, options);
  collectives.wait_for_device();  // another optimizer may have queued what waits for other ranks
  std::optional<layout::Layout> layout;
  comm::agreed(collectives, [&] {
    const auto kind = runtime.impl().device->is_host() ? DeviceKind::host : DeviceKind::cuda;
    layout.emplace(parameters, options.bucket_elements != 0
                                   ? options.bucket_elements
                                   : default_bucket_elements(kind, runtime.size()));
    if (options.shard_gradients) runtime.impl().device->discard(nullptr, 0);  // throws on a GPU
  });
  std::array<device::Buffer, 2> memory{collectives.allocate(layout->parameter_bytes()),
                                       collectives.allocate(layout->gradient_bytes())};
  std::unique_ptr<ShardedOptimizer::Impl> impl;
  comm::agreed(collectives, [&] {
    impl = std::make_unique<ShardedOptimizer::Impl>(
        runtime, std::move(parameters), std::move(*layout), std::move(memory), rule, options);
  });
  return impl;
}

}  // namespace

void optimizer::validate_for(const Rule& rule, const Parameters& parameters) {
  validate(rule);
  for (const Parameter& p : parameters) {
    try {
      [[maybe_unused]] const Rule own = rule_for(rule, p.group);
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("parameter '{}': {}", p.name, error.what()));
    }
  }
}

void TensorView::require_size(std::size_t bytes) const {
  if (static_cast<std::int64_t>(bytes) != size_of(dtype)) {
    throw ConfigError(fmt::format("a view of {} values was asked for as elements of {} bytes",
                                  name_of(dtype), bytes));
  }
}

ShardedOptimizer::Impl::Impl(Runtime& runtime_, Parameters parameters_, layout::Layout layout_,
                             std::array<device::Buffer, 2> memory_, Rule rule_,
                             const OptimizerOptions& options_)
    : runtime(runtime_),
      collectives(runtime.impl().collectives()),
      device(*runtime.impl().device),
      parameters(std::move(parameters_)),
      rule(std::move(rule_)),
      options(options_),
      state(device, std::move(layout_), std::move(memory_[0]), std::move(memory_[1]),
            states_of(rule), collectives.rank(), collectives.size(), options),
      reducer(collectives, device, parameters, state, options),
      gathers(state.layout().buckets().size()),
      writes_copies(collectives.group().topology().local_size <= device::most_copies + 1),
      loss_scale(options.loss_scaling.initial) {}

std::vector<math::UpdateKernel> ShardedOptimizer::Impl::group_kernels() const {
  const math::StepClocks now{clocks.step, clocks.updates, clocks.slow_step};
  std::vector<math::UpdateKernel> kernels;
  for (const Group& group : state.layout().groups())
    kernels.push_back(math::update_kernel(rule, group, now));
  return kernels;
}

void ShardedOptimizer::Impl::update_bucket(std::size_t bucket,
                                           const std::vector<math::UpdateKernel>& kernels) {
  const layout::Range slice = state.shard().slices[bucket].range;
  if (slice.empty()) return;
  std::vector<device::UpdateRun> runs;
  for (const layout::GroupRun& run : state.layout().group_runs(slice))
    runs.push_back({.end = run.range.end - slice.begin, .kernel = kernels[run.group]});
  device::UpdateArrays arrays = state.arrays(bucket);
  reducer.set_gradient(bucket, arrays);
  if (writes_copies) {
    const auto copies = collectives.copies(state.sliced_parameters(bucket));
    arrays.copy_count = static_cast<std::int32_t>(copies.size());
    std::ranges::copy(copies, arrays.copies);
  }
  arrays.random = math::random_keys(options.seed, clocks.updates);
  device.update(
      {.arrays = arrays, .elements = slice.size(), .runs = runs, .control = reducer.control()});
}

void ShardedOptimizer::Impl::queue_updates() {
  const device::Range range(device, "shardmix update");
  const std::vector<math::UpdateKernel> kernels = group_kernels();
  await_readers();
  for (std::size_t b = 0; b < gathers.size(); ++b) {
    update_bucket(b, kernels);
    begin_gather(b, writes_copies ? comm::Written::everywhere : comm::Written::here);
  }
}

void ShardedOptimizer::Impl::adapt_loss_scale(bool usable) {
  const LossScaling& scaling = options.loss_scaling;
  if (scaling.growth_interval == 0) return;
  if (!usable) {
    loss_scale = std::max(1.0, loss_scale / 2.0);
    usable_steps = 0;
  } else if (++usable_steps == scaling.growth_interval) {
    loss_scale *= 2.0;
    usable_steps = 0;
  }
}

void ShardedOptimizer::Impl::begin_gather(std::size_t bucket, comm::Written written) {
  gathers[bucket] = collectives.begin_gather(state.sliced_parameters(bucket), written);
}

void ShardedOptimizer::Impl::wait_bucket(std::size_t bucket) {
  if (gathers[bucket] == nullptr) return;
  gathers[bucket]->wait();
  gathers[bucket].reset();
  collectives.lead_trainer();
}

void ShardedOptimizer::Impl::wait_all() {
  for (std::size_t b = 0; b < gathers.size(); ++b) wait_bucket(b);
}

void ShardedOptimizer::Impl::gather_all() {
  for (std::size_t b = 0; b < gathers.size(); ++b) {
    begin_gather(b, comm::Written::here);
    wait_bucket(b);
  }
}

void ShardedOptimizer::Impl::broadcast_buffer(int root) {
  const std::span<std::byte> all = state.all_parameters();
  collectives.wait_for_device();
  if (device.is_host()) {
    collectives.broadcast(all, root);
    return;
  }
  std::vector<std::byte> here(std::min(all.size(), std::size_t{8} << 20));
  for (std::size_t at = 0; at < all.size(); at += here.size()) {
    const std::span<std::byte> there = all.subspan(at, std::min(here.size(), all.size() - at));
    const std::span<std::byte> part = std::span(here).first(there.size());
    device.copy(part.data(), there.data(), part.size());
    collectives.broadcast(part, root);
    device.copy(there.data(), part.data(), part.size());
  }
}

void ShardedOptimizer::Impl::log_beta3_advice() const {
  const std::string advice = beta3_advice(rule, lr_of(rule).steps);
  if (!advice.empty()) runtime.log("warning: {}", advice);
}

ShardedOptimizer::ShardedOptimizer(Runtime& runtime, Parameters parameters, Rule rule,
                                   const OptimizerOptions& options)
    : impl_(make_impl(runtime, std::move(parameters), rule, options)) {
  impl_->log_beta3_advice();
}
ShardedOptimizer::~ShardedOptimizer() = default;
ShardedOptimizer::ShardedOptimizer(ShardedOptimizer&&) noexcept = default;

TensorView ShardedOptimizer::parameter(std::string_view name) {
  const std::size_t i = impl_->parameters.index(name);
  const Parameter& p = impl_->parameters[i];
  return {.data = impl_->state.parameter_at(impl_->state.layout().range_of(i).begin),
          .shape = p.shape,
          .dtype = p.dtype,
          .elements = p.elements()};
}

TensorView ShardedOptimizer::gradient(std::string_view name) {
  const std::size_t i = impl_->parameters.index(name);
  const Parameter& p = impl_->parameters[i];
  if (!p.group.trainable)
    throw ConfigError(fmt::format("parameter '{}' is frozen: it has no gradient", name));
  return {.data = impl_->state.gradient_at(impl_->state.layout().range_of(i).begin),
          .shape = p.shape,
          .dtype = p.dtype,
          .elements = p.elements()};
}

void ShardedOptimizer::read(const TensorView& view, void* to) const {
  impl_->device.follow_trainer();
  impl_->collectives.wait_for_device();
  impl_->device.copy(to, view.data, static_cast<std::size_t>(view.elements * size_of(view.dtype)));
}

void ShardedOptimizer::write(const TensorView& view, const void* from) {
  impl_->device.follow_trainer();
  impl_->collectives.wait_for_device();
  impl_->device.copy(view.data, from,
                     static_cast<std::size_t>(view.elements * size_of(view.dtype)));
}

void ShardedOptimizer::broadcast_parameters(int root) {
  impl_->await_readers();
  if (root < 0 || root >= impl_->collectives.size()) {
    throw ConfigError(fmt::format("broadcast_parameters: there is no rank {} among {}", root,
                                  impl_->collectives.size()));
  }
  impl_->wait_all();
  impl_->broadcast_buffer(root);
  impl_->state.start_master();
  impl_->has_values = true;
}

void ShardedOptimizer::mark_ready(std::string_view name) {
  impl_->reducer.mark_ready(impl_->parameters.index(name));
}

void ShardedOptimizer::accumulate() {
  impl_->reducer.finish_micro_batch(false);
  zero_gradients();
}

void ShardedOptimizer::zero_gradients() {
  comm::Collectives& collectives = impl_->collectives;
  collectives.wait_until_read(collectives.reductions());
  if (impl_->options.shard_gradients) {
    const std::span<std::byte> all = impl_->state.all_gradients();
    collectives.discard(all.data(), std::ssize(all));
    return;
  }
  impl_->device.follow_trainer();
  impl_->state.zero_gradients();
  collectives.lead_trainer();
}

StepReport ShardedOptimizer::step() {
  Impl& o = *impl_;
  const device::Range range(o.device, "shardmix step");
  if (!o.has_values) {
    throw ConfigError(
        "step() before the parameters had values; call broadcast_parameters() or load a checkpoint "
        "first");
  }
  o.wait_all();
  o.reducer.finish_micro_batch(true);
  const auto slots = static_cast<double>(o.collectives.size() * o.reducer.micro_batches());
  const double mean = 1.0 / (slots * o.loss_scale);
  o.reducer.decide(mean, o.options.clip_norm);

  // Everything is queued as if the step were usable: on a GPU nobody knows yet.
  const Clocks before = o.clocks;
  ++o.clocks.step;
  ++o.clocks.updates;
  if (o.state.states().m2) ++o.clocks.slow_step;
  o.queue_updates();
  const device::UpdateControl outcome = o.reducer.outcome();

  StepReport report;
  report.step = o.clocks.step;
  report.lr = lr_of(o.rule).at(o.clocks.step);
  report.gradient_norm = outcome.norm * mean;
  report.clip_scale = outcome.clip_scale;
  report.loss_scale = o.loss_scale;
  report.skipped = outcome.skip != 0;
  if (const auto* rule = std::get_if<AdEMAMix>(&o.rule)) {
    report.alpha = rule->alpha_at(o.clocks.slow_step);
    report.beta3 = rule->beta3_at(o.clocks.slow_step);
  }
  o.adapt_loss_scale(!report.skipped);
  if (report.skipped) {
    o.clocks.updates = before.updates;
    o.clocks.slow_step = before.slow_step;
    report.gradient_norm = std::numeric_limits<double>::infinity();
    report.reason = o.reducer.describe_unusable();
  }
  o.reducer.release();
  if (!o.options.overlap) o.wait_all();
  return report;
}

void ShardedOptimizer::wait(std::string_view name) {
  const std::size_t i = impl_->parameters.index(name);
  if (!impl_->parameters[i].group.trainable) return;
  for (const std::size_t bucket : impl_->state.layout().buckets_of(i)) impl_->wait_bucket(bucket);
}

void ShardedOptimizer::wait() {
  impl_->wait_all();
}

const Parameters& ShardedOptimizer::parameters() const noexcept {
  return impl_->parameters;
}
const Rule& ShardedOptimizer::rule() const noexcept {
  return impl_->rule;
}
const OptimizerOptions& ShardedOptimizer::options() const noexcept {
  return impl_->options;
}
const Clocks& ShardedOptimizer::clocks() const noexcept {
  return impl_->clocks;
}
double ShardedOptimizer::loss_scale() const noexcept {
  return impl_->loss_scale;
}
MemoryReport ShardedOptimizer::memory() const noexcept {
  return impl_->state.memory();
}

}  // namespace shardmix
