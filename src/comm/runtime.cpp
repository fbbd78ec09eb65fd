#include "shardmix/runtime.hpp"

#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "comm/agree.hpp"
#include "comm/mpi_check.hpp"
#include "comm/runtime_impl.hpp"
#include "comm/transports.hpp"
#include "shardmix/cuda.hpp"
#include "shardmix/error.hpp"
#include "shardmix/mpi.hpp"

namespace shardmix {
namespace {

using comm::check;

/// Sums with it are far from overflow.
constexpr std::chrono::milliseconds longest_deadline = std::chrono::years(1);

/// Starts MPI if no one has.
std::unique_ptr<Runtime::Impl::Mpi> start_mpi(int& argc, char**& argv,
                                              std::chrono::milliseconds deadline) {
  int running = 0;
  check(MPI_Initialized(&running), "MPI_Initialized");
  if (running != 0) return nullptr;
  int provided = 0;
  check(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  // Open MPI writes to connections that their other end has left.
  struct sigaction action {};
  if (sigaction(SIGPIPE, nullptr, &action) == 0 && action.sa_handler == SIG_DFL)
    std::signal(SIGPIPE, SIG_IGN);
  return std::make_unique<Runtime::Impl::Mpi>(deadline);
}

/// Cores that the ranks of this rank's node may run on, together.
int cores_of_node(const comm::Group& group, const cpu_set_t& own) {
  MPI_Comm node = MPI_COMM_NULL;
  check(MPI_Comm_split_type(group.communicator(), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
        "MPI_Comm_split_type");
  cpu_set_t all = own;
  check(MPI_Allreduce(&own, &all, static_cast<int>(sizeof all), MPI_BYTE, MPI_BOR, node),
        "MPI_Allreduce");
  check(MPI_Comm_free(&node), "MPI_Comm_free");
  return CPU_COUNT(&all);
}

int thread_count(const RuntimeOptions& options, int node_cores, int node_ranks,
                 const cpu_set_t& own) {
  if (options.threads < 0) {
    throw ConfigError(fmt::format(
        "threads must be at least 1, or 0 for this rank's share of the cores, but is {}",
        options.threads));
  }
  if (options.threads > 0) return options.threads;
  return std::max(1, std::min(CPU_COUNT(&own), node_cores / node_ranks));
}

/// This process's place among those of its node, whatever part of them the group is: what the
/// launcher says (Open MPI, MPICH and Intel MPI, Slurm), or else its place in the group.
int place_on_node(const comm::Group& group) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}) {
    const char* text = std::getenv(name);
    int place = 0;
    if (text == nullptr) continue;
    const auto [end, status] = std::from_chars(text, text + std::strlen(text), place);
    if (status == std::errc() && *end == '\0' && place >= 0) return place;
  }
  return group.topology().local_rank;
}

std::unique_ptr<Runtime::Impl> make_impl(MPI_Comm communicator, const RuntimeOptions& options,
                                         std::unique_ptr<Runtime::Impl::Mpi> mpi) {
  auto impl = std::make_unique<Runtime::Impl>();
  impl->mpi = std::move(mpi);
  impl->group = std::make_unique<comm::Group>(comm::duplicate(communicator), options.deadline);
  const comm::Group& group = *impl->group;
  cpu_set_t own;
  CPU_ZERO(&own);
  sched_getaffinity(0, sizeof own, &own);
  const int cores = [&] {
    const comm::Watch::Guarded guarded(group.watch());
    return cores_of_node(group, own);
  }();
  const bool is_gpu = options.device == DeviceKind::cuda;
  // The host's device serves until the ranks have agreed that each has the one that was asked for.
  const auto host = device::host_device(1);
  const auto probe = comm::mpi_collectives(*impl->group, *host);
  comm::agreed(*probe, [&] {
    if (options.deadline <= std::chrono::milliseconds(0) || options.deadline > longest_deadline) {
      throw ConfigError(
          fmt::format("the deadline must be above 0 ms and at most a year, but is {} ms",
                      options.deadline.count()));
    }
    impl->threads = thread_count(options, cores, group.topology().local_size, own);
    impl->device =
        is_gpu ? device::cuda_device(place_on_node(group)) : device::host_device(impl->threads);
  });
  impl->collectives_owner =
      comm::make_collectives(options.collectives, *impl->group, *impl->device, is_gpu);
  return impl;
}

}  // namespace

Runtime::Impl::Mpi::~Mpi() {
  // Without it the launcher sees a failed rank and ends the job.
  if (is_abandoned_ || std::uncaught_exceptions() > 0) return;
  // It joins the other ranks, of which one may have been stopped or cut off by now; they have
  // memory and threads to give back before.
  std::mutex mutex;
  std::condition_variable_any wakes;
  const std::jthread guard([&](const std::stop_token& stop) {
    std::unique_lock lock(mutex);
    wakes.wait_for(lock, stop, deadline_ + std::chrono::minutes(1), [] { return false; });
    if (stop.stop_requested()) return;
    std::fputs(
        "MPI_Finalize doesn't come back: a rank is stuck, stopped or cut off; this process is "
        "ended\n",
        stderr);
    std::_Exit(1);
  });
  MPI_Finalize();
}

Runtime::Impl::~Impl() {
  if (!mpi || !collectives_owner) return;
  if (!group->watch().over()) {
    try {
      group->watch().end();
    } catch (const std::exception& error) {
      print_line(fmt::format("rank {}, at the end: {}", collectives().rank(), error.what()));
    }
  }
  if (group->watch().over()) mpi->abandon();
}

Runtime::Runtime(int& argc, char**& argv, const RuntimeOptions& options) {
  auto mpi = start_mpi(argc, argv, options.deadline);
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

void use_stream(Runtime& runtime, CUstream_st* stream) {
  runtime.impl().device->set_trainer_queue(stream);
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
std::string Runtime::collectives_description() const {
  return fmt::format("{}, {}", impl_->collectives().name(), describe(impl_->group->topology()));
}
std::string Runtime::device_description() const {
  return impl_->device->description();
}

void Runtime::print_line(const std::string& line) {
  std::fputs((line + '\n').c_str(), stderr);
}

}  // namespace shardmix
