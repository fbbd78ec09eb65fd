#include "bench/step_bench.hpp"

#include <algorithm>
#include <memory>
#include <thread>

#include "bench/collectives_bench.hpp"
#include "bench/library.hpp"
#include "bench/model.hpp"
#include "bench/workload.hpp"
#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/mpi.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix::bench {
namespace {

/// How a device's sum of all ranks' gradients reaches the update, for the bound's sake: the fewer
/// bytes of two ways, as optimizer/reducer.hpp has it.
bool reads_twice(int ranks, DType dtype) {
  return ranks * size_of(dtype) <= 8;
}

/// The traffic of a step in the memory of one node that holds all ranks, and nothing else.
class StepTraffic {
 public:
  StepTraffic(const Ranks& ranks, const Rule& rule, const Precision& precision,
              std::int64_t parameters)
      : elements_(parameters / ranks.size()),
        twice_(reads_twice(ranks.size(), precision.dtype)),
        norm_(ranks.device(), elements_),
        update_(ranks.device(), rule, precision, elements_, twice_ ? precision.dtype : fp32) {
    const std::int64_t width = size_of(precision.dtype);
    for (int r = 0; r < ranks.size(); ++r) norm_.add(width, false);
    if (!twice_) norm_.add(4, true);
    for (int r = 1; r < ranks.size(); ++r) {
      if (twice_) update_.pass().add(width, false);
      update_.pass().add(width, true);  // a peer's copy of the parameter
    }
  }

  [[nodiscard]] double bytes() { return norm_.bytes() + update_.pass().bytes(); }

  void run(bool by_block) {
    norm_.run(by_block);
    update_.pass().run(by_block);
  }

 private:
  std::int64_t elements_;
  bool twice_;
  Pass norm_;
  Workload update_;
};

/// shardmix's step.
class Step : public Contestant {
 public:
  Step(const GroupOptions& options, const std::string& collectives, const Rule& rule,
       const Precision& precision, bool overlap)
      : runtime_(adopt(MPI_COMM_WORLD, runtime_options(options, collectives))),
        optimizer_(
            runtime_,
            flat_model(options.parameters, bucket_of(options, runtime_.size()), precision.dtype),
            rule, optimizer_options(precision, bucket_of(options, runtime_.size()), overlap)) {
    fill_model(*runtime_.impl().device, optimizer_);
  }

  void run() override {
    optimizer_.step();
    runtime_.impl().collectives().wait_for_device();
  }
  [[nodiscard]] std::string name() const override {
    return std::string(runtime_.impl().collectives().name());
  }

 protected:
  [[nodiscard]] ShardedOptimizer& optimizer() { return optimizer_; }

 private:
  Runtime runtime_;
  ShardedOptimizer optimizer_;
};

/// A step between a forward pass that waits for each parameter, and a backward pass that marks each
/// gradient. Both compute on a device of their own: here they sleep.
class Iteration final : public Step {
 public:
  Iteration(const GroupOptions& options, const std::string& collectives, const Rule& rule,
            const Precision& precision, bool overlap)
      : Step(options, collectives, rule, precision, overlap) {}

  void set_compute(double total) {
    const auto count = static_cast<double>(optimizer().parameters().size());
    forward_ = std::chrono::duration<double>(total / 3.0 / count);
    backward_ = std::chrono::duration<double>(total * 2.0 / 3.0 / count);
  }

  void run() override {
    const Parameters& parameters = optimizer().parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      optimizer().wait(parameters[i].name);
      std::this_thread::sleep_for(forward_);
    }
    for (std::size_t i = parameters.size(); i-- > 0;) {
      std::this_thread::sleep_for(backward_);
      optimizer().mark_ready(parameters[i].name);
    }
    optimizer().step();
  }

 private:
  std::chrono::duration<double> forward_{};
  std::chrono::duration<double> backward_{};
};

/// The same update between the MPI library's collectives. No norm: they have none.
class LibraryStep final : public Contestant {
 public:
  LibraryStep(const Ranks& ranks, std::string name, const Rule& rule, const Precision& precision,
              std::int64_t parameters)
      : name_(std::move(name)),
        slice_(parameters / ranks.size()),
        library_(precision.dtype, name_ == library_rounded, slice_, ranks.size()),
        gradients_(ranks.device(), parameters * size_of(precision.dtype)),
        parameters_(ranks.device(), parameters * size_of(precision.dtype)),
        workload_(ranks.device(), rule, precision, slice_, library_.sum_dtype()) {
    fill(ranks.device(), precision.dtype, gradients_.data(), parameters, 1e-2f);
    fill(ranks.device(), precision.dtype, parameters_.data(), parameters, 1.0f);
    workload_.arrays.parameter =
        parameters_.data() + ranks.runtime().rank() * slice_ * size_of(precision.dtype);
  }

  void run() override {
    auto* sum = static_cast<std::byte*>(const_cast<void*>(workload_.arrays.gradients[0]));
    library_.reduce_scatter(gradients_.data(), sum);
    workload_.update();
    library_.all_gather(parameters_.data());
  }
  [[nodiscard]] std::string name() const override { return name_; }

 private:
  std::string name_;
  std::int64_t slice_;
  Library library_;
  device::Buffer gradients_;
  device::Buffer parameters_;
  Workload workload_;
};

void measure_steps(Ranks& ranks, const StepOptions& options, const Rule& rule,
                   const Precision& precision, const Report& report) {
  const bool one_node = ranks.topology().nodes == 1;
  Contestants contestants;
  for (const std::string& name : options.collectives) {
    if (is_library(name)) {
      contestants.push_back(
          std::make_unique<LibraryStep>(ranks, name, rule, precision, options.parameters));
    } else {
      contestants.push_back(std::make_unique<Step>(options, name, rule, precision, false));
    }
  }
  std::unique_ptr<StepTraffic> traffic;
  Result common = describe(ranks, options, "step", std::string(precision.name));
  common.rule = name_of(rule);
  if (one_node && options.bound) {
    traffic = std::make_unique<StepTraffic>(ranks, rule, precision, options.parameters);
    common.bytes_per_parameter = traffic->bytes();
    add_streams(contestants, [&](bool by_block) { traffic->run(by_block); });
  }
  const std::vector<double> times = take_turns(ranks, options.rounds, contestants);
  const LinkBytes link = link_bytes(ranks.topology(), precision.dtype);
  report_all(ranks, options, common, contestants, times, link.reduce + link.gather, report);
}

/// Steps with computation around them: in a row, and overlapped.
void measure_iterations(Ranks& ranks, const StepOptions& options, const std::string& name,
                        const Rule& rule, const Precision& precision, const Report& report) {
  CollectivesOptions exchange;
  static_cast<GroupOptions&>(exchange) = options;
  exchange.dtype = precision.dtype;
  const double communication = exchange_seconds(ranks, exchange, name);
  Contestants contestants;
  const double compute = *options.compute > 0.0 ? *options.compute : communication;
  contestants.push_back(std::make_unique<Step>(options, name, rule, precision, false));
  auto overlapped = std::make_unique<Iteration>(options, name, rule, precision, true);
  overlapped->set_compute(compute);
  contestants.push_back(std::move(overlapped));
  const std::vector<double> times = take_turns(ranks, options.rounds, contestants);

  Result result = describe(ranks, options, "iteration", std::string(precision.name));
  result.rule = name_of(rule);
  result.collectives = contestants[0]->name();
  const LinkBytes link = link_bytes(ranks.topology(), precision.dtype);
  result.bytes_per_parameter = link.reduce + link.gather;
  result.seconds = times[1];
  result.bound_seconds = compute + std::max(0.0, times[0] - communication);
  result.hidden = (compute + times[0] - times[1]) / communication;
  if (ranks.runtime().is_root()) report(result);
}

}  // namespace

void run_step(const StepOptions& options, const Report& report) {
  Ranks ranks(options.device, options.threads);
  validate(ranks, options);
  std::vector<Rule> rules;
  std::vector<Precision> precisions;
  comm::agreed(ranks.collectives(), [&] {
    rules = rules_named(options.rules);
    precisions = precisions_named(options.precisions);
  });
  for (const Precision& precision : precisions) {
    for (const Rule& rule : rules) {
      if (!options.compute) {
        measure_steps(ranks, options, rule, precision, report);
        continue;
      }
      for (const std::string& name : options.collectives)
        measure_iterations(ranks, options, name, rule, precision, report);
    }
  }
}

}  // namespace shardmix::bench
