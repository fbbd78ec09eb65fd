#include "shardmix/runtime.hpp"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "comm/agree.hpp"
#include "comm/mpi_check.hpp"
#include "comm/mpi_collectives.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix {
namespace {

using comm::check;

/// Starts MPI if no one has; the returned object ends it again if it was this one that started it.
std::shared_ptr<void> start_mpi(int& argc, char**& argv) {
  int running = 0;
  check(MPI_Initialized(&running), "MPI_Initialized");
  if (running != 0) return nullptr;
  int provided = 0;
  check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  return {static_cast<void*>(nullptr), [](void*) {
            // While an exception unwinds this rank, the others may be waiting for it in a
            // collective, where MPI_Finalize would join them for ever. Without it the launcher sees
            // a failed rank and ends the job.
            if (std::uncaught_exceptions() == 0) MPI_Finalize();
          }};
}

/// The ranks that share this machine's memory.
struct Node {
  int rank = 0;
  int size = 1;
  int cores = 1;  ///< that its ranks may run on, together
};

Node find_node(MPI_Comm communicator, const cpu_set_t& own) {
  MPI_Comm local = MPI_COMM_NULL;
  check(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local),
        "MPI_Comm_split_type");
  Node node;
  check(MPI_Comm_rank(local, &node.rank), "MPI_Comm_rank");
  check(MPI_Comm_size(local, &node.size), "MPI_Comm_size");
  cpu_set_t all = own;
  check(MPI_Allreduce(&own, &all, static_cast<int>(sizeof all), MPI_BYTE, MPI_BOR, local),
        "MPI_Allreduce");
  node.cores = CPU_COUNT(&all);
  check(MPI_Comm_free(&local), "MPI_Comm_free");
  return node;
}

int thread_count(const RuntimeOptions& options, const Node& node, const cpu_set_t& own) {
  if (options.threads < 0) {
    throw ConfigError(fmt::format(
        "threads must be at least 1, or 0 for this rank's share of the cores, but is {}",
        options.threads));
  }
  if (options.threads > 0) return options.threads;
  return std::max(1, std::min(CPU_COUNT(&own), node.cores / node.size));
}

std::unique_ptr<Runtime::Impl> make_impl(MPI_Comm communicator, const RuntimeOptions& options,
                                         std::shared_ptr<void> mpi) {
  auto impl = std::make_unique<Runtime::Impl>();
  impl->mpi = std::move(mpi);
  MPI_Comm own = MPI_COMM_NULL;
  check(MPI_Comm_dup(communicator, &own), "MPI_Comm_dup");
  check(MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(0, sizeof cores, &cores);
  const Node node = find_node(own, cores);
  // The host's device serves until the ranks have agreed that each has the one that was asked for.
  const auto host = device::host_device(1);
  const auto probe = [&] {
    MPI_Comm copy = MPI_COMM_NULL;
    check(MPI_Comm_dup(own, &copy), "MPI_Comm_dup");
    return comm::mpi_collectives(copy, *host);
  }();
  comm::agreed(*probe, [&] {
    impl->threads = thread_count(options, node, cores);
    impl->device = options.device == DeviceKind::cuda ? device::cuda_device(node.rank)
                                                      : device::host_device(impl->threads);
  });
  impl->collectives_owner = comm::mpi_collectives(own, *impl->device);
  if (options.device == DeviceKind::cuda && comm::has_nccl()) {
    impl->collectives_owner =
        comm::nccl_collectives(std::move(impl->collectives_owner), *impl->device);
  }
  return impl;
}

}  // namespace

Runtime::Runtime(int& argc, char**& argv, const RuntimeOptions& options) {
  auto mpi = start_mpi(argc, argv);
  impl_ = make_impl(MPI_COMM_WORLD, options, std::move(mpi));
}

Runtime::Runtime(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Runtime::Runtime(Runtime&&) noexcept = default;
Runtime::~Runtime() = default;

Runtime adopt(MPI_Comm communicator, const RuntimeOptions& options) {
  int running = 0;
  check(MPI_Initialized(&running), "MPI_Initialized");
  if (running == 0)
    throw ConfigError("adopt() takes a communicator of a running MPI; call MPI_Init_thread first");
  return Runtime(make_impl(communicator, options, nullptr));
}

int Runtime::rank() const noexcept {
  return impl_->collectives().rank();
}
int Runtime::size() const noexcept {
  return impl_->collectives().size();
}
int Runtime::threads() const noexcept {
  return impl_->threads;
}
std::string Runtime::device_description() const {
  return impl_->device->description();
}

void Runtime::print_line(const std::string& line) {
  std::fputs((line + '\n').c_str(), stderr);
}

}  // namespace shardmix
