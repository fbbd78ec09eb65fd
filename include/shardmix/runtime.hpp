#pragma once

/// This process's place in the run: its MPI rank, the device it computes on, its threads.
///
/// Make one at the start of main and keep it until the end. It starts MPI where no one has, and
/// ends it again. A program that already runs MPI hands over its communicator instead: see
/// shardmix/mpi.hpp.

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

namespace shardmix {

enum class DeviceKind : unsigned char { host, cuda };

struct RuntimeOptions {
  DeviceKind device = DeviceKind::host;
  /// Host threads of this rank; 0: its share of the cores that the node's ranks may use.
  int threads = 0;
  /// How buckets travel: "auto" (the best that the machine and the placement of ranks allow),
  /// "shared" (memory of one node), "hierarchical" (shared on each node, between nodes MPI or,
  /// between GPUs, NCCL), "mpi", or "nccl" (between GPUs).
  std::string collectives = "auto";
  /// How long a rank waits for the others in one operation before all end with an error that names
  /// the rank at fault; above 0 and at most a year. Where MPI itself doesn't come back from a call,
  /// or the trainer waits for a GPU that waits for a rank that is gone, the process ends.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
};

class Runtime {
 public:
  /// Starts MPI if no one has, and then ignores SIGPIPE unless that has a handler: a rank that dies
  /// would end others by it. Throws CommError or DeviceError.
  Runtime(int& argc, char**& argv, const RuntimeOptions& options = {});

  /// Ends MPI if this object started it, together with the other ranks: collective then, but after
  /// an error.
  ~Runtime();
  Runtime(Runtime&&) noexcept;
  Runtime& operator=(Runtime&&) = delete;

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int size() const noexcept;
  [[nodiscard]] int threads() const noexcept;
  [[nodiscard]] bool is_root() const noexcept { return rank() == 0; }
  /// For people: "shared, 2 ranks on one node".
  [[nodiscard]] std::string collectives_description() const;
  /// For people: "host, 2 threads" or the GPU's name.
  [[nodiscard]] std::string device_description() const;

  /// Prints a line on standard error, from rank 0 alone.
  template <class... Args>
  void log(fmt::format_string<Args...> format, Args&&... args) const {
    if (is_root()) print_line(fmt::format(format, std::forward<Args>(args)...));
  }

  struct Impl;
  explicit Runtime(std::unique_ptr<Impl> impl) noexcept;
  [[nodiscard]] Impl& impl() const noexcept { return *impl_; }

 private:
  static void print_line(const std::string& line);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardmix
