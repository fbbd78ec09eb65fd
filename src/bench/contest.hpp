#pragma once

/// What the benches of all ranks share: contestants that take turns, a bound that memory or links
/// set, and how they are reported.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/ranks.hpp"
#include "bench/result.hpp"
#include "shardmix/dtype.hpp"
#include "shardmix/runtime.hpp"

namespace shardmix::bench {

/// The names that stand for MPI_Reduce_scatter_block and MPI_Allgather among the transports: with
/// fp32 sums as ours, and with sums rounded to the gradients' dtype.
inline constexpr std::string_view library = "library";
inline constexpr std::string_view library_rounded = "library-rounded";
[[nodiscard]] bool is_library(std::string_view name);

struct GroupOptions {
  std::vector<std::string> collectives{"auto"};  ///< transports to compare, and the libraries
  DeviceKind device = DeviceKind::host;
  int threads = 0;
  std::int64_t parameters = std::int64_t{1} << 26;
  std::optional<std::int64_t> bucket_elements;  ///< none: the device's default
  int rounds = 9;
  bool bound = true;           ///< whether memory's bound is measured, on one node
  double link_gigabits = 0.0;  ///< that a host's link carries each way; 0: unknown
};

/// The parameters of a bucket.
[[nodiscard]] std::int64_t bucket_of(const GroupOptions& options, int ranks);

/// Throws ConfigError on all ranks.
void validate(Ranks& ranks, const GroupOptions& options);

/// Of one of the transports.
[[nodiscard]] RuntimeOptions runtime_options(const GroupOptions& options,
                                             const std::string& collectives);

/// One way of doing what is measured.
class Contestant {
 public:
  virtual ~Contestant() = default;
  virtual void run() = 0;
  [[nodiscard]] virtual std::string name() const = 0;
};

using Contestants = std::vector<std::unique_ptr<Contestant>>;

/// Adds a pass over the memory that must be moved, which does nothing else. The faster one of its
/// two orders is the bound. They come last.
void add_streams(Contestants& contestants, const std::function<void(bool by_block)>& pass);

/// Medians over rounds in which contestants take turns.
[[nodiscard]] std::vector<double> take_turns(Ranks& ranks, int rounds,
                                             const Contestants& contestants);

/// Bytes of a parameter that a host must send, and as many that it must receive: a sum over the
/// host's ranks or their gradients, whichever is less; and the new value.
struct LinkBytes {
  double reduce;
  double gather;
};
[[nodiscard]] LinkBytes link_bytes(const comm::Topology& topology, DType dtype);

/// What all results of a run share.
[[nodiscard]] Result describe(const Ranks& ranks, const GroupOptions& options,
                              std::string operation, std::string precision);

/// Reports all contestants but the streaming ones, which set the bound on one node where it is
/// asked for; between nodes a link does, which carries `link` bytes a parameter.
void report_all(const Ranks& ranks, const GroupOptions& options, const Result& common,
                const Contestants& contestants, const std::vector<double>& times, double link,
                const Report& report);

}  // namespace shardmix::bench
