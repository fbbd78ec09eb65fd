#include "bench/contest.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "bench/timing.hpp"
#include "comm/agree.hpp"
#include "math/block.hpp"
#include "shardmix/error.hpp"
#include "shardmix/optimizer.hpp"

namespace shardmix::bench {
namespace {

class Stream final : public Contestant {
 public:
  explicit Stream(std::function<void()> pass) : pass_(std::move(pass)) {}
  void run() override { pass_(); }
  [[nodiscard]] std::string name() const override { return "stream"; }

 private:
  std::function<void()> pass_;
};

/// Seconds in which a link carries its part; 0: unknown.
double link_seconds(const GroupOptions& options, double bytes_per_parameter) {
  if (options.link_gigabits == 0.0) return 0.0;
  return static_cast<double>(options.parameters) * bytes_per_parameter /
         (options.link_gigabits / 8.0 * 1e9);
}

}  // namespace

bool is_library(std::string_view name) {
  return name == library || name == library_rounded;
}

std::int64_t bucket_of(const GroupOptions& options, int ranks) {
  return options.bucket_elements.value_or(default_bucket_elements(options.device, ranks));
}

void validate(Ranks& ranks, const GroupOptions& options) {
  comm::agreed(ranks.collectives(), [&] {
    const std::int64_t least = std::int64_t{math::block_elements} * ranks.size();
    if (options.parameters < least || options.parameters % least != 0 || options.rounds < 1) {
      throw ConfigError(fmt::format(
          "on {} rank(s) the bench needs a multiple of {} parameters and 1 round, but was given {} "
          "and {}",
          ranks.size(), least, options.parameters, options.rounds));
    }
    if (!ranks.device().is_host() && std::ranges::any_of(options.collectives, is_library)) {
      throw ConfigError(
          "the MPI library's own collectives are measured between hosts alone; choose others with "
          "--collectives: shared, nccl or mpi");
    }
    if (options.collectives.empty()) throw ConfigError("there are no collectives to measure");
  });
}

RuntimeOptions runtime_options(const GroupOptions& options, const std::string& collectives) {
  return {.device = options.device, .threads = options.threads, .collectives = collectives};
}

void add_streams(Contestants& contestants, const std::function<void(bool)>& pass) {
  for (const bool by_block : {false, true})
    contestants.push_back(std::make_unique<Stream>([pass, by_block] { pass(by_block); }));
}

std::vector<double> take_turns(Ranks& ranks, int rounds, const Contestants& contestants) {
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

LinkBytes link_bytes(const comm::Topology& topology, DType dtype) {
  const auto nodes = static_cast<double>(topology.nodes);
  const double remote = (nodes - 1.0) / nodes;
  const auto width = static_cast<double>(size_of(dtype));
  return {.reduce = remote * std::min(4.0, topology.local_size * width), .gather = remote * width};
}

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

void report_all(const Ranks& ranks, const GroupOptions& options, const Result& common,
                const Contestants& contestants, const std::vector<double>& times, double link,
                const Report& report) {
  const bool one_node = ranks.topology().nodes == 1;
  const std::size_t streams = one_node && options.bound ? 2 : 0;
  const std::size_t count = contestants.size() - streams;
  for (std::size_t i = 0; i < count; ++i) {
    Result result = common;
    result.collectives = contestants[i]->name();
    result.seconds = times[i];
    if (streams > 0) {
      result.bound_seconds = std::min(times[count], times[count + 1]);
    } else if (!one_node) {
      result.bytes_per_parameter = link;
      result.bound_seconds = link_seconds(options, link);
    }
    if (ranks.runtime().is_root()) report(result);
  }
}

}  // namespace shardmix::bench
