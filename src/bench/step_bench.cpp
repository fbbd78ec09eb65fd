#include "bench/step_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "bench/library.hpp"
#include "bench/model.hpp"
#include "bench/ranks.hpp"
#include "bench/timing.hpp"
#include "bench/workload.hpp"
#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "math/block.hpp"
#include "shardmix/error.hpp"
#include "shardmix/mpi.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix::bench {
namespace {

using math::block_elements;

void validate(Ranks& ranks, const GroupOptions& options) {
  comm::agreed(ranks.collectives(), [&] {
    const std::int64_t least = std::int64_t{block_elements} * ranks.size();
    if (options.parameters < least || options.parameters % least != 0 || options.rounds < 1) {
      throw ConfigError(fmt::format(
          "on {} rank(s) the bench needs a multiple of {} parameters and 1 round, but was given {} "
          "and {}",
          ranks.size(), least, options.parameters, options.rounds));
    }
    if (options.collectives.empty()) throw ConfigError("there are no collectives to measure");
  });
}

bool is_library(const std::string& name) {
  return name == library || name == library_rounded;
}

/// What all results of a run share.
Result describe(const Ranks& ranks, const GroupOptions& options, std::string operation,
                std::string precision) {
  return {.operation = std::move(operation),
          .precision = std::move(precision),
          .device = ranks.runtime().device_description(),
          .threads = options.device == DeviceKind::host ? ranks.runtime().threads() : 0,
          .ranks = ranks.size(),
          .hosts = ranks.topology().nodes,
          .parameters = options.parameters};
}

/// Bytes of a parameter that a host must send, and as many that it must receive: a sum over the
/// host's ranks or their gradients, whichever is less; and the new value.
struct LinkBytes {
  double reduce;
  double gather;
};

LinkBytes link_bytes(const comm::Topology& topology, DType dtype) {
  const auto nodes = static_cast<double>(topology.nodes);
  const double remote = (nodes - 1.0) / nodes;
  const auto width = static_cast<double>(size_of(dtype));
  return {.reduce = remote * std::min(4.0, topology.local_size * width), .gather = remote * width};
}

/// Seconds in which a link carries its part; 0: unknown.
double link_seconds(const GroupOptions& options, double bytes_per_parameter) {
  if (options.link_gigabits == 0.0) return 0.0;
  return static_cast<double>(options.parameters) * bytes_per_parameter /
         (options.link_gigabits / 8.0 * 1e9);
}

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

/// One way of doing what is measured.
class Contestant {
 public:
  virtual ~Contestant() = default;
  virtual void run() = 0;
  [[nodiscard]] virtual std::string name() const = 0;
};

/// Medians over rounds in which contestants take turns.
std::vector<double> take_turns(Ranks& ranks, int rounds,
                               const std::vector<std::unique_ptr<Contestant>>& contestants) {
  std::vector<std::vector<double>> times(contestants.size());
  for (const auto& contestant : contestants) contestant->run();  // pages, pools, connections
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < contestants.size(); ++i)
      times[i].push_back(ranks.time([&] { contestants[i]->run(); }));
  }
  std::vector<double> medians;
  for (const auto& t : times) medians.push_back(median(t));
  return medians;
}

/// A pass over the memory that must be moved, and nothing else.
class Stream final : public Contestant {
 public:
  explicit Stream(std::function<void()> pass) : pass_(std::move(pass)) {}
  void run() override { pass_(); }
  [[nodiscard]] std::string name() const override { return "stream"; }

 private:
  std::function<void()> pass_;
};

/// The faster one of two orders is the bound.
void add_streams(std::vector<std::unique_ptr<Contestant>>& contestants,
                 const std::function<void(bool)>& pass) {
  for (const bool by_block : {false, true})
    contestants.push_back(std::make_unique<Stream>([pass, by_block] { pass(by_block); }));
}

RuntimeOptions runtime_options(const GroupOptions& options, const std::string& collectives) {
  return {.device = options.device, .threads = options.threads, .collectives = collectives};
}

/// shardmix's step.
class Step : public Contestant {
 public:
  Step(const GroupOptions& options, const std::string& collectives, const Rule& rule,
       const Precision& precision, bool overlap)
      : runtime_(adopt(MPI_COMM_WORLD, runtime_options(options, collectives))),
        optimizer_(runtime_,
                   flat_model(options.parameters, options.bucket_elements, precision.dtype), rule,
                   optimizer_options(precision, options.bucket_elements, overlap)) {
    fill_model(optimizer_);
  }

  void run() override { optimizer_.step(); }
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
    fill(precision.dtype, gradients_.data(), parameters, 1e-2f);
    fill(precision.dtype, parameters_.data(), parameters, 1.0f);
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

/// Which of the bulk operations a round does.
enum class Exchange : std::uint8_t { reduce_scatter, all_gather, both };

constexpr std::array exchanges{std::pair{Exchange::reduce_scatter, "reduce-scatter"},
                               std::pair{Exchange::all_gather, "all-gather"},
                               std::pair{Exchange::both, "both"}};

/// All buckets of a flat buffer over one of shardmix's transports, with the sum of the reduction.
class Transport final : public Contestant {
 public:
  Transport(const CollectivesOptions& options, const std::string& collectives, Exchange exchange)
      : runtime_(adopt(MPI_COMM_WORLD, runtime_options(options, collectives))),
        exchange_(exchange),
        memory_(this->collectives().allocate(options.parameters * size_of(options.dtype))) {
    fill(options.dtype, memory_.data(), options.parameters, 1e-2f);
    const int size = runtime_.size();
    const std::int64_t width = size_of(options.dtype);
    for (std::int64_t begin = 0; begin < options.parameters; begin += options.bucket_elements) {
      const std::int64_t blocks =
          std::min(options.bucket_elements, options.parameters - begin) / block_elements;
      comm::SlicedBucket& bucket = buckets_.emplace_back(comm::SlicedBucket{
          .data = memory_.data() + begin * width, .dtype = options.dtype, .cuts = {}});
      for (int r = 0; r <= size; ++r)
        bucket.cuts.push_back(blocks * r / size * block_elements * width);
      sums_.emplace_back(*runtime_.impl().device, bucket.slice_bytes(runtime_.rank()) / width * 4);
    }
  }

  void run() override {
    if (exchange_ != Exchange::all_gather) reduce();
    if (exchange_ != Exchange::reduce_scatter) gather();
  }
  [[nodiscard]] std::string name() const override { return std::string(collectives().name()); }

 private:
  [[nodiscard]] comm::Collectives& collectives() const { return runtime_.impl().collectives(); }

  void reduce() {
    constexpr std::size_t most_under_way = 4;
    std::deque<std::unique_ptr<comm::Reduction>> under_way;
    std::size_t next = 0;
    const auto finish = [&] {
      const comm::Contributions sources = under_way.front()->contributions();
      const std::size_t bucket = next - under_way.size();
      runtime_.impl().device->reduce({.sources = sources.arrays,
                                      .dtype = sources.dtype,
                                      .elements = sums_[bucket].bytes() / 4,
                                      .sum = sums_[bucket].as<float>()});
      under_way.pop_front();
    };
    for (; next < buckets_.size(); ++next) {
      if (under_way.size() == most_under_way) finish();
      under_way.push_back(collectives().begin_reduce(buckets_[next]));
    }
    while (!under_way.empty()) finish();
    collectives().wait_until_read(collectives().reductions());
  }

  void gather() {
    std::vector<std::unique_ptr<comm::Gather>> gathers;
    for (const comm::SlicedBucket& bucket : buckets_)
      gathers.push_back(collectives().begin_gather(bucket, comm::Written::here));
    for (const auto& g : gathers) g->wait();
  }

  Runtime runtime_;
  Exchange exchange_;
  device::Buffer memory_;
  std::vector<comm::SlicedBucket> buckets_;
  std::vector<device::Buffer> sums_;
};

class LibraryTransport final : public Contestant {
 public:
  LibraryTransport(const Ranks& ranks, std::string name, const CollectivesOptions& options,
                   Exchange exchange)
      : name_(std::move(name)),
        exchange_(exchange),
        slice_(options.parameters / ranks.size()),
        library_(options.dtype, name_ == library_rounded, slice_, ranks.size()),
        memory_(ranks.device(), options.parameters * size_of(options.dtype)),
        sum_(ranks.device(), slice_ * size_of(library_.sum_dtype())) {
    fill(options.dtype, memory_.data(), options.parameters, 1e-2f);
  }

  void run() override {
    if (exchange_ != Exchange::all_gather) library_.reduce_scatter(memory_.data(), sum_.data());
    if (exchange_ != Exchange::reduce_scatter) library_.all_gather(memory_.data());
  }
  [[nodiscard]] std::string name() const override { return name_; }

 private:
  std::string name_;
  Exchange exchange_;
  std::int64_t slice_;
  Library library_;
  device::Buffer memory_;
  device::Buffer sum_;
};

/// The traffic of an exchange in the memory of one node that holds all ranks.
void add_traffic(Pass& pass, Exchange exchange, int ranks, DType dtype) {
  const std::int64_t width = size_of(dtype);
  if (exchange != Exchange::all_gather) {
    for (int r = 0; r < ranks; ++r) pass.add(width, false);
    pass.add(4, true);
  }
  if (exchange != Exchange::reduce_scatter) {
    pass.add(width, false);
    for (int r = 1; r < ranks; ++r) pass.add(width, true);
  }
}

/// Reports all contestants but the streaming ones, which come last and set the bound on one node.
void report_all(const Ranks& ranks, const GroupOptions& options, const Result& common,
                const std::vector<std::unique_ptr<Contestant>>& contestants,
                const std::vector<double>& times, double link, const Report& report) {
  const std::size_t streams = ranks.topology().nodes == 1 ? 2 : 0;
  const std::size_t count = contestants.size() - streams;
  for (std::size_t i = 0; i < count; ++i) {
    Result result = common;
    result.collectives = contestants[i]->name();
    result.seconds = times[i];
    if (streams > 0) {
      result.bound_seconds = std::min(times[count], times[count + 1]);
    } else {
      result.bytes_per_parameter = link;
      result.bound_seconds = link_seconds(options, link);
    }
    if (ranks.runtime().is_root()) report(result);
  }
}

void measure_steps(Ranks& ranks, const StepOptions& options, const Rule& rule,
                   const Precision& precision, const Report& report) {
  const bool one_node = ranks.topology().nodes == 1;
  std::vector<std::unique_ptr<Contestant>> contestants;
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
  if (one_node) {
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
  std::vector<std::unique_ptr<Contestant>> contestants;
  contestants.push_back(std::make_unique<Transport>(exchange, name, Exchange::both));
  const double communication = take_turns(ranks, options.rounds, contestants)[0];
  contestants.clear();
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

void run_collectives(const CollectivesOptions& options, const Report& report) {
  Ranks ranks(options.device, options.threads);
  validate(ranks, options);
  for (const auto& [exchange, operation] : exchanges) {
    std::vector<std::unique_ptr<Contestant>> contestants;
    for (const std::string& name : options.collectives) {
      if (is_library(name)) {
        contestants.push_back(std::make_unique<LibraryTransport>(ranks, name, options, exchange));
      } else {
        contestants.push_back(std::make_unique<Transport>(options, name, exchange));
      }
    }
    Pass pass(ranks.device(), options.parameters / ranks.size());
    Result common =
        describe(ranks, options, operation, std::string(shardmix::name_of(options.dtype)));
    if (ranks.topology().nodes == 1) {
      add_traffic(pass, exchange, ranks.size(), options.dtype);
      common.bytes_per_parameter = pass.bytes();
      add_streams(contestants, [&](bool by_block) { pass.run(by_block); });
    }
    const LinkBytes link = link_bytes(ranks.topology(), options.dtype);
    const double bytes = (exchange != Exchange::all_gather ? link.reduce : 0.0) +
                         (exchange != Exchange::reduce_scatter ? link.gather : 0.0);
    const std::vector<double> times = take_turns(ranks, options.rounds, contestants);
    report_all(ranks, options, common, contestants, times, bytes, report);
  }
}

}  // namespace shardmix::bench
