#include "comm/messages.hpp"

#include "comm/mpi_chunks.hpp"
#include "device/device.hpp"

namespace shardmix::comm {
namespace {

/// Messages that began before one that failed may still use their memory.
void check_begun(int status, const char* call) {
  if (status != MPI_SUCCESS) device::keep_memory();
  check(status, call);
}

}  // namespace

void Messages::send(const std::byte* data, std::int64_t bytes, int to) {
  in_chunks(const_cast<std::byte*>(data), bytes, [&](std::byte* chunk, int count) {
    check_begun(
        MPI_Isend(chunk, count, MPI_BYTE, to, tag_, communicator_, &requests_.emplace_back()),
        "MPI_Isend");
  });
}

void Messages::receive(std::byte* data, std::int64_t bytes, int from) {
  in_chunks(data, bytes, [&](std::byte* chunk, int count) {
    check_begun(
        MPI_Irecv(chunk, count, MPI_BYTE, from, tag_, communicator_, &requests_.emplace_back()),
        "MPI_Irecv");
  });
}

bool Messages::done() {
  int all = 0;
  check(
      MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE),
      "MPI_Testall");
  if (all != 0) requests_.clear();
  return all != 0;
}

}  // namespace shardmix::comm
