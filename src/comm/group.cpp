#include "comm/group.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

#include "comm/abort.hpp"
#include "comm/mpi_check.hpp"

namespace shardmix::comm {
namespace {

/// The lowest rank on each rank's node.
std::vector<int> find_first_ranks(MPI_Comm communicator, int rank, int size) {
  MPI_Comm node = MPI_COMM_NULL;
  check(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node),
        "MPI_Comm_split_type");
  int first = rank;
  check(MPI_Bcast(&first, 1, MPI_INT, 0, node), "MPI_Bcast");
  check(MPI_Comm_free(&node), "MPI_Comm_free");
  std::vector<int> all(static_cast<std::size_t>(size));
  check(MPI_Allgather(&first, 1, MPI_INT, all.data(), 1, MPI_INT, communicator), "MPI_Allgather");
  return all;
}

std::vector<Member> find_members(MPI_Comm communicator, int size) {
  struct Record {
    std::array<char, 256> host{};
    std::int64_t process = 0;
    std::int64_t process_space = 0;
  };
  const Member own = this_member();
  Record record{.process = own.process, .process_space = own.process_space};
  std::strncpy(record.host.data(), own.host.c_str(), record.host.size() - 1);
  std::vector<Record> records(static_cast<std::size_t>(size));
  check(MPI_Allgather(&record, sizeof record, MPI_BYTE, records.data(), sizeof record, MPI_BYTE,
                      communicator),
        "MPI_Allgather");
  std::vector<Member> members;
  for (const Record& r : records) members.push_back({r.host.data(), r.process, r.process_space});
  return members;
}

}  // namespace

MPI_Comm duplicate(MPI_Comm communicator) {
  MPI_Comm copy = MPI_COMM_NULL;
  check(MPI_Comm_dup(communicator, &copy), "MPI_Comm_dup");
  check(MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  return copy;
}

Group::Group(MPI_Comm communicator, std::chrono::milliseconds deadline)
    : communicator_(communicator) {
  check(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
  int size = 1;
  check(MPI_Comm_size(communicator, &size), "MPI_Comm_size");
  const std::vector<int> first_ranks = find_first_ranks(communicator, rank_, size);
  topology_ = topology_of(first_ranks, rank_);
  int level = MPI_THREAD_SINGLE;
  check(MPI_Query_thread(&level), "MPI_Query_thread");
  allows_threads_ = level == MPI_THREAD_MULTIPLE;
  std::vector<int> neighbours;
  const int first = first_ranks[static_cast<std::size_t>(rank_)];
  for (int r = 0; r < size; ++r) {
    if (first_ranks[static_cast<std::size_t>(r)] == first) neighbours.push_back(r);
  }
  watch_ = std::make_unique<Watch>(comm::duplicate(communicator), find_members(communicator, size),
                                   neighbours, deadline);
}

MPI_Comm Group::duplicate() const {
  auto copy = std::make_unique<MPI_Comm>(MPI_COMM_NULL);
  try {
    MPI_Request request = MPI_REQUEST_NULL;
    watch().begin("a communicator", [&] {
      check(MPI_Comm_idup(communicator_, copy.get(), &request), "MPI_Comm_idup");
    });
    watch().finish(request, "a communicator");
  } catch (...) {
    (void)copy.release();  // MPI may write it yet
    throw;
  }
  check(MPI_Comm_set_errhandler(*copy, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  return *copy;
}

Group::~Group() {
  if (std::uncaught_exceptions() > 0) watch_->leave();
  if (!watch_->over()) MPI_Comm_free(&communicator_);
}

void end_process(const Group& group, std::string_view error, int exit_code) noexcept {
  group.watch().leave(error);
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

}  // namespace shardmix::comm
