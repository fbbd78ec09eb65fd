#include "bench/collectives_bench.hpp"

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <utility>

#include "bench/library.hpp"
#include "bench/model.hpp"
#include "bench/workload.hpp"
#include "comm/runtime_impl.hpp"
#include "math/block.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix::bench {
namespace {

using math::block_elements;

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
    fill(*runtime_.impl().device, options.dtype, memory_.data(), options.parameters, 1e-2f);
    const int size = runtime_.size();
    const std::int64_t width = size_of(options.dtype);
    const std::int64_t most = bucket_of(options, size);
    for (std::int64_t begin = 0; begin < options.parameters; begin += most) {
      const std::int64_t blocks = std::min(most, options.parameters - begin) / block_elements;
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
    collectives().wait_for_device();
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
    fill(ranks.device(), options.dtype, memory_.data(), options.parameters, 1e-2f);
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

}  // namespace

void run_collectives(const CollectivesOptions& options, const Report& report) {
  Ranks ranks(options.device, options.threads);
  validate(ranks, options);
  for (const auto& [exchange, operation] : exchanges) {
    Contestants contestants;
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
    if (ranks.topology().nodes == 1 && options.bound) {
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

double exchange_seconds(Ranks& ranks, const CollectivesOptions& options,
                        const std::string& collectives) {
  Contestants contestants;
  contestants.push_back(std::make_unique<Transport>(options, collectives, Exchange::both));
  return take_turns(ranks, options.rounds, contestants)[0];
}

}  // namespace shardmix::bench
