// Trains and saves on the ranks that it has, or loads what other numbers of ranks saved and trains
// on, and compares every bit with one rank that trains without a break and never saw a checkpoint.
//   world_sizes_program save DIRECTORY
//   world_sizes_program load DIRECTORY RANKS...
// world_sizes_test.py runs it. A checkpoint is in DIRECTORY/CASE/RANKS. Alone, `save` also writes
// DIRECTORY/CASE.f32, the states as they are in memory, for readers of another make.
//
// For one rank and many to have the same bits, their gradients are chosen so that sums are exact
// and the mean is a number that every rank could have written itself. This holds for 3 and 5 ranks
// too: the nearest fp32 numbers of 1/3 and 1/5 are off by 2^-25 and 2^-26, so 3x and 5x times them
// round to x. Gradients of any kind have other bits on another number of ranks (the case "any"):
// the sum is another tree, and a sum that was rounded, times that factor, is rounded again. They
// are compared with the oracle in double.

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "optimizer/optimizer_impl.hpp"
#include "shardmix/shardmix.hpp"
#include "support/reference_model.hpp"

namespace {

using namespace shardmix;
using shardmix::testing::noise;
namespace fs = std::filesystem;

constexpr std::int64_t saved_step = 6;
constexpr std::int64_t last_step = 10;
constexpr bool is_skipped(std::int64_t step) {
  return step == 2 || step == 9;
}

bool failed = false;

template <class... Arguments>
void wrong(fmt::format_string<Arguments...> form, Arguments&&... arguments) {
  if (!failed)
    fmt::print(stderr, "WRONG: {}\n", fmt::format(form, std::forward<Arguments>(arguments)...));
  failed = true;
}

// What is trained.

Parameters parameters() {
  Parameters all;
  all.add("scalar", {}, fp32, {.weight_decay = 0.0});
  all.add("empty", {0, 3}, bf16);
  all.add("one", {1}, bf16);
  all.add("three", {3}, fp32);
  all.add("prime", {2003}, bf16);
  all.add("frozen", {37, 11}, fp32, {.trainable = false});
  all.add("cube", {5, 7, 11}, fp32, {.lr_scale = 0.5});
  all.add("matrix", {31, 43}, bf16,
          {.weight_decay = 0.01, .hyper_parameters = {{"beta1", 0.8}, {"beta2", 0.99}}});
  all.add("frozen half", {601}, bf16, {.trainable = false});
  all.add("half", {2, 3, 5, 7}, fp16);
  all.add("embedding", {64, 33}, bf16);
  all.tie("head", "embedding");
  return all;
}

struct Case {
  std::string name;
  Rule first;  ///< until switch_step
  Rule rule;
  OptimizerOptions options;
  bool in_background = false;  ///< the save
  /// saved_step: what is saved is of the first rule, and its load is the switch.
  std::int64_t switch_step = 3;
  SwitchOptions switching = {};

  [[nodiscard]] bool switches_at_load() const { return first != rule && switch_step == saved_step; }
};

/// All gradients of a step are whole numbers of 8 bits times this power of two.
double unit(std::uint32_t step) {
  constexpr std::array units{1.0, 2.0, 0.5, 4.0, 1.0, 0.25, 2.0};
  return units[step % units.size()];
}

/// In units. Its norm is the same in all steps.
double mean_gradient(std::uint32_t step, std::uint32_t parameter, std::uint32_t i) {
  const double size = 1.0 + std::floor(50.0 * (noise(1, 0, parameter, i) + 1.0));
  return noise(2, step, parameter, i) < 0.0 ? -size : size;
}

/// What a rank adds to it, in units: nothing in all. Two neighbours have opposite numbers.
double deviation(std::uint32_t step, std::uint32_t parameter, std::uint32_t i, int rank, int size) {
  if (rank % 2 == 0 && rank + 1 == size) return 0.0;
  const double some = std::floor(8.0 * noise(3, step, parameter, i)) * (rank / 2 + 1);
  return rank % 2 == 0 ? some : -some;
}

/// The norm of mean_gradient(): clipping to it divides by a power of two.
double usual_norm() {
  double squares = 0.0;
  std::uint32_t number = 0;
  for (const Parameter& p : parameters()) {
    ++number;
    for (std::uint32_t i = 0; p.group.trainable && i < p.elements(); ++i)
      squares += std::pow(mean_gradient(0, number, i), 2);
  }
  return std::sqrt(squares);
}

std::vector<Case> cases() {
  const AdEMAMix ademamix{.lr = cosine(1e-2, {.warmup = 2, .steps = 100}),
                          .beta3 = 0.95,
                          .alpha_steps = 15,
                          .beta3_steps = 15};
  const AdamW adamw{.lr = wsd(1e-2, {.warmup = 2, .steps = 14, .decay = 8})};
  const auto options = [clip = usual_norm()](Master master, StateFormat state) {
    return OptimizerOptions{.clip_norm = clip,
                            .master = master,
                            .state = state,
                            .loss_scaling = {.initial = 8.0, .growth_interval = 5},
                            .seed = 7};
  };
  const SwitchOptions from_m1{.m2 = M2Start::from_m1};
  const auto full = StateFormat::full;
  const auto compact = StateFormat::compact;
  return {
      {"ademamix", ademamix, ademamix, options(Master::remainder, full)},
      {"adamw", adamw, adamw, options(Master::full, full), true},
      {"switched", adamw, ademamix, options(Master::remainder, full)},
      {"compact", ademamix, ademamix, options(Master::remainder, compact), true},
      {"least", ademamix, ademamix, options(Master::none, compact)},
      {"switched from m1", adamw, ademamix, options(Master::remainder, compact), false, 3, from_m1},
      {"back", ademamix, adamw, options(Master::remainder, full)},
      {"load switches", adamw, ademamix, options(Master::remainder, full), false, saved_step},
      {"load switches from m1", adamw, ademamix, options(Master::none, compact), true, saved_step,
       from_m1},
      {"load switches back", ademamix, adamw, options(Master::full, compact), false, saved_step},
  };
}

/// Of a run on `ranks` that saves, or that loads: some have less than a block for each rank.
std::int64_t bucket_elements(int ranks, bool saves) {
  constexpr std::array<std::int64_t, 4> sizes{256, 768, 1024, 1 << 22};
  return sizes[static_cast<std::size_t>(ranks + (saves ? 0 : 1)) % sizes.size()];
}

ShardedOptimizer make(Runtime& runtime, const Case& c, const Rule& rule, bool saves) {
  OptimizerOptions options = c.options;
  options.bucket_elements = bucket_elements(runtime.size(), saves);
  return {runtime, parameters(), rule, options};
}

StepReport step(const Runtime& runtime, ShardedOptimizer& optimizer, const Case& c) {
  if (optimizer.clocks().step == c.switch_step && optimizer.rule() != c.rule)
    optimizer.switch_rule(c.rule, c.switching);
  const auto now = static_cast<std::uint32_t>(optimizer.clocks().step + 1);
  std::uint32_t number = 0;
  for (const Parameter& p : optimizer.parameters()) {
    ++number;
    if (!p.group.trainable) continue;
    const shardmix::testing::OnHost host(optimizer, optimizer.gradient(p.name));
    const TensorView& view = host.view();
    for (std::uint32_t i = 0; i < view.elements; ++i) {
      const double own =
          mean_gradient(now, number, i) + deviation(now, number, i, runtime.rank(), runtime.size());
      shardmix::testing::set_value(view, i, unit(now) * own * optimizer.loss_scale());
    }
  }
  if (is_skipped(now) && runtime.rank() + 1 == runtime.size()) {
    shardmix::testing::set_value(optimizer, optimizer.gradient("prime"), 5,
                                 std::numeric_limits<double>::infinity());
  }
  return optimizer.step();
}

// What is compared.

/// Hands take(array, offset, values) all that this rank holds: its part of "matrix m1", and the
/// whole of the parameter "matrix".
template <class Take>
void each_array(ShardedOptimizer& optimizer, const Take& take) {
  const optimizer::ShardedState& state = optimizer.impl().state;
  for (const optimizer::State s : optimizer::all_states) {
    if (!state.has(s)) continue;
    for (std::size_t b = 0; b < state.shard().slices.size(); ++b) {
      for (const layout::Piece& piece : state.layout().pieces(state.shard().slices[b].range)) {
        std::vector<float> values(static_cast<std::size_t>(piece.count));
        state.read(s, b, {piece.begin, piece.begin + piece.count}, values.data());
        take(fmt::format("{} {}", optimizer.parameters()[piece.parameter].name, name_of(s)),
             static_cast<std::size_t>(piece.offset), values);
      }
    }
  }
  for (const Parameter& p : optimizer.parameters()) {
    const shardmix::testing::OnHost host(optimizer, optimizer.parameter(p.name));
    const TensorView& view = host.view();
    std::vector<float> values;
    for (std::int64_t i = 0; i < view.elements; ++i)
      values.push_back(static_cast<float>(shardmix::testing::value_of(view, i)));
    take(p.name, 0, values);
  }
}

/// All that a run without a break holds at a step, on one rank.
struct Moment {
  Clocks clocks;
  double loss_scale = 0.0;
  std::map<std::string, std::vector<float>> arrays;

  Moment() = default;
  explicit Moment(ShardedOptimizer& optimizer)
      : clocks(optimizer.clocks()), loss_scale(optimizer.loss_scale()) {
    each_array(optimizer, [this](const std::string& name, std::size_t offset,
                                 const std::vector<float>& values) {
      std::vector<float>& all = arrays[name];
      all.resize(std::max(all.size(), offset + values.size()));
      std::ranges::copy(values, all.begin() + static_cast<std::ptrdiff_t>(offset));
    });
  }

  /// Bit for bit, and nothing may be left out. Collective.
  void require_same(ShardedOptimizer& optimizer, const std::string& where) const {
    if (optimizer.clocks() != clocks || optimizer.loss_scale() != loss_scale) {
      const Clocks found = optimizer.clocks();
      wrong("{}: clocks {} {} {}, loss scale {}; expected {} {} {}, {}", where, found.step,
            found.updates, found.slow_step, optimizer.loss_scale(), clocks.step, clocks.updates,
            clocks.slow_step, loss_scale);
    }
    std::map<std::string, std::int64_t> seen;  // the same names on all ranks, in the same order
    for (const auto& [name, values] : arrays) seen[name] = 0;
    each_array(optimizer,
               [&](const std::string& name, std::size_t offset, const std::vector<float>& values) {
                 seen[name] += std::ssize(values);
                 const std::vector<float>& expected = arrays.at(name);
                 for (std::size_t i = 0; i < values.size(); ++i) {
                   if (std::bit_cast<std::uint32_t>(values[i]) ==
                       std::bit_cast<std::uint32_t>(expected.at(offset + i)))
                     continue;
                   wrong("{}: {}[{}] is {:a}, not {:a}", where, name, offset + i, values[i],
                         expected[offset + i]);
                 }
               });
    int ranks = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (auto& [name, count] : seen) {
      MPI_Allreduce(MPI_IN_PLACE, &count, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
      const bool is_state = !optimizer.parameters().find(name);
      const auto expected = (is_state ? 1 : ranks) * std::ssize(arrays.at(name));
      if (count != expected) wrong("{}: {} of {} elements of {}", where, count, expected, name);
    }
  }
};

/// A run on one rank, from the first step to the last.
struct Whole {
  Moment saved;
  Moment last;
  std::vector<StepReport> reports;  ///< from step 1 on

  explicit Whole(const Case& c) {
    Runtime alone = adopt(MPI_COMM_SELF, {.threads = 1});
    ShardedOptimizer optimizer = make(alone, c, c.first, true);
    shardmix::testing::start(optimizer);
    while (optimizer.clocks().step < last_step) {
      reports.push_back(step(alone, optimizer, c));
      if (optimizer.clocks().step == saved_step) saved = Moment(optimizer);
    }
    last = Moment(optimizer);
  }

  /// The norm may be off in its last bits: it is of a sum that is divided then.
  void require_same(const StepReport& found, const std::string& where) const {
    const StepReport& expected = reports.at(static_cast<std::size_t>(found.step - 1));
    const auto is_near = [](double a, double b) {
      return a == b || std::fabs(a - b) <= 1e-14 * std::fabs(b);
    };
    if (found.lr != expected.lr || found.alpha != expected.alpha || found.beta3 != expected.beta3 ||
        found.loss_scale != expected.loss_scale || found.skipped != expected.skipped ||
        !is_near(found.gradient_norm, expected.gradient_norm) ||
        !is_near(found.clip_scale, expected.clip_scale))
      wrong("{}: step {} isn't reported as one rank reports it", where, found.step);
    if (expected.skipped != is_skipped(expected.step))
      wrong("{}: skips step {}", where, found.step);
  }
};

void go_on(const Runtime& runtime, ShardedOptimizer& optimizer, const Case& c, const Whole& whole,
           const std::string& where) {
  while (optimizer.clocks().step < last_step)
    whole.require_same(step(runtime, optimizer, c), where);
  whole.last.require_same(optimizer, where + ", at the end");
}

/// For each parameter, in their order: its states, in their order, or the value of a frozen one.
void write_arrays(const fs::path& path, const Moment& moment) {
  std::ofstream file(path, std::ios::binary);
  const auto write = [&](const std::vector<float>& values) {
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(sizeof(float) * values.size()));
  };
  for (const Parameter& p : parameters()) {
    if (!p.group.trainable) write(moment.arrays.at(p.name));
    for (const optimizer::State s : optimizer::all_states) {
      const auto found = moment.arrays.find(fmt::format("{} {}", p.name, name_of(s)));
      if (found != moment.arrays.end()) write(found->second);
    }
  }
  if (!file.flush()) wrong("can't write '{}'", path.string());
}

void save(Runtime& runtime, const Case& c, const fs::path& directory) {
  const std::string where = fmt::format("{} on {} ranks", c.name, runtime.size());
  const Whole whole(c);
  ShardedOptimizer optimizer = make(runtime, c, c.first, true);
  shardmix::testing::start(optimizer, runtime.rank());
  while (optimizer.clocks().step < saved_step)
    whole.require_same(step(runtime, optimizer, c), where);
  whole.saved.require_same(optimizer, where);
  Checkpoints checkpoints(runtime, directory / c.name / std::to_string(runtime.size()));
  if (c.in_background) {
    checkpoints.begin_save(optimizer, where);
    whole.require_same(step(runtime, optimizer, c), where);
    checkpoints.finish();
  } else {
    checkpoints.save(optimizer, where);
  }
  go_on(runtime, optimizer, c, whole, where);
  if (runtime.size() == 1) write_arrays(directory / (c.name + ".f32"), whole.saved);
}

/// One optimizer loads them all: nothing of what it held before may be left.
void load(Runtime& runtime, const Case& c, const fs::path& directory,
          const std::vector<std::string>& all_from) {
  const Whole whole(c);
  ShardedOptimizer optimizer = make(runtime, c, c.rule, false);
  shardmix::testing::start(optimizer, runtime.rank() + 1);
  for (const std::string& from : all_from) {
    const std::string where = fmt::format("{} on {} ranks, from {}", c.name, runtime.size(), from);
    Checkpoints checkpoints(runtime, directory / c.name / from);
    if (checkpoints.resume(optimizer, c.switching) != saved_step) wrong("{}: another step", where);
    if (checkpoints.trainer_state() != fmt::format("{} on {} ranks", c.name, from))
      wrong("{}: the trainer's state is '{}'", where, checkpoints.trainer_state());
    if (checkpoints.load_switch().has_value() != c.switches_at_load())
      wrong("{}: the switch isn't reported", where);
    if (!c.switches_at_load()) whole.saved.require_same(optimizer, where);
    go_on(runtime, optimizer, c, whole, where);
  }
}

// Gradients of any kind.

struct AnyGradients {
  Rule rule = AdEMAMix{.lr = cosine(1e-2, {.warmup = 2, .steps = 100}),
                       .beta3 = 0.95,
                       .alpha_steps = 15,
                       .beta3_steps = 15};
  OptimizerOptions options = {.clip_norm = 10.0};

  static Parameters parameters() {
    Parameters all;
    all.add("scalar", {}, fp32, {.weight_decay = 0.0});
    all.add("prime", {2003}, fp32);
    all.add("frozen", {37, 11}, fp32, {.trainable = false});
    all.add("matrix", {31, 43}, bf16, {.lr_scale = 0.5});
    return all;
  }

  [[nodiscard]] ShardedOptimizer make(Runtime& runtime, bool saves) const {
    OptimizerOptions own = options;
    own.bucket_elements = bucket_elements(runtime.size(), saves);
    return {runtime, parameters(), rule, own};
  }

  /// They differ by a quarter at most, so that their mean has as many right digits as they have.
  static double gradient(std::int64_t step, std::uint32_t parameter, std::uint32_t i, int rank) {
    const auto now = static_cast<std::uint32_t>(step);
    return noise(100, now, parameter, i) *
           (1.0 + 0.25 * noise(101 + static_cast<std::uint32_t>(rank), now, parameter, i));
  }

  static void train_to(const Runtime& runtime, ShardedOptimizer& optimizer, std::int64_t end) {
    while (optimizer.clocks().step < end) {
      std::uint32_t number = 0;
      for (const Parameter& p : optimizer.parameters()) {
        ++number;
        if (!p.group.trainable) continue;
        const shardmix::testing::OnHost host(optimizer, optimizer.gradient(p.name));
        const TensorView& view = host.view();
        for (std::uint32_t i = 0; i < view.elements; ++i) {
          shardmix::testing::set_value(
              view, i, gradient(optimizer.clocks().step + 1, number, i, runtime.rank()));
        }
      }
      optimizer.step();
    }
  }

  static void train_to(shardmix::testing::ReferenceModel& model, std::int64_t begin,
                       std::int64_t end, int ranks) {
    for (std::int64_t step = begin + 1; step <= end; ++step) {
      std::vector<std::vector<double>> mean;
      std::uint32_t number = 0;
      for (const Parameter& p : parameters()) {
        ++number;
        auto& values = mean.emplace_back(static_cast<std::size_t>(p.elements()), 0.0);
        for (std::uint32_t i = 0; p.group.trainable && i < values.size(); ++i) {
          for (int rank = 0; rank < ranks; ++rank)
            values[i] += shardmix::testing::rounded(p.dtype, gradient(step, number, i, rank));
          values[i] /= ranks;
        }
      }
      model.step(mean);
    }
  }

  /// Each update rounds a weight to half a unit in its last place, and its size, below 0.1, to
  /// some.
  static void require_near(ShardedOptimizer& optimizer,
                           const shardmix::testing::ReferenceModel& model,
                           const std::string& where) {
    std::map<std::string, std::size_t> number;
    for (std::size_t p = 0; p < optimizer.parameters().size(); ++p)
      number[optimizer.parameters()[p].name] = p;
    each_array(optimizer,
               [&](const std::string& name, std::size_t offset, const std::vector<float>& values) {
                 const std::string state = name.substr(std::min(name.size(), name.find(' ')));
                 if (state.empty())
                   return;  // the parameter itself, which follows from the master weights
                 const std::size_t p = number.at(name.substr(0, name.find(' ')));
                 for (std::size_t i = 0; i < values.size(); ++i) {
                   const auto& element = model.element(p, offset + i);
                   const double expected = state == " master" ? element.theta
                                           : state == " m1"   ? element.m1
                                           : state == " m2"   ? element.m2
                                                              : element.v;
                   const double tolerance = 0x1p-21 * std::fabs(expected) + 0x1p-24;
                   if (std::fabs(values[i] - expected) <= tolerance) continue;
                   wrong("{}: {}[{}] is {}, not {}", where, name, offset + i, values[i], expected);
                 }
               });
  }

  void save(Runtime& runtime, const fs::path& directory) const {
    ShardedOptimizer optimizer = make(runtime, true);
    shardmix::testing::start(optimizer, runtime.rank());
    shardmix::testing::ReferenceModel model(optimizer, rule, options.clip_norm);
    train_to(runtime, optimizer, saved_step);
    Checkpoints(runtime, directory / "any" / std::to_string(runtime.size())).save(optimizer);
    train_to(runtime, optimizer, last_step);
    train_to(model, 0, last_step, runtime.size());
    require_near(optimizer, model, fmt::format("any on {} ranks", runtime.size()));
  }

  void load(Runtime& runtime, const fs::path& directory,
            const std::vector<std::string>& all_from) const {
    ShardedOptimizer optimizer = make(runtime, false);
    shardmix::testing::start(optimizer);
    const shardmix::testing::ReferenceModel begin(optimizer, rule, options.clip_norm);
    for (const std::string& from : all_from) {
      const std::string where = fmt::format("any on {} ranks, from {}", runtime.size(), from);
      shardmix::testing::ReferenceModel model = begin;
      Checkpoints(runtime, directory / "any" / from).resume(optimizer);
      train_to(model, 0, saved_step, std::stoi(from));
      require_near(optimizer, model, where);
      train_to(runtime, optimizer, last_step);
      train_to(model, saved_step, last_step, runtime.size());
      require_near(optimizer, model, where + ", at the end");
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  Runtime runtime(argc, argv, {.threads = 1});
  const std::vector<std::string> words(argv + 1, argv + argc);
  const fs::path directory = words.at(1);
  if (words[0] == "save") {
    for (const Case& c : cases()) save(runtime, c, directory);
    AnyGradients().save(runtime, directory);
  } else {
    const std::vector<std::string> all_from(words.begin() + 2, words.end());
    for (const Case& c : cases()) load(runtime, c, directory, all_from);
    AnyGradients().load(runtime, directory, all_from);
  }
  int result = failed ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &result, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  return result;
}
