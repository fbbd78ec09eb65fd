#include "comm/messages.hpp"

#include <span>
#include <utility>

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
  planned_.push_back({true, const_cast<std::byte*>(data), bytes, to});
}

void Messages::receive(std::byte* data, std::int64_t bytes, int from, std::function<void()> then) {
  planned_.push_back({false, data, bytes, from, std::move(then)});
}

void Messages::begin() {
  for (Planned& planned : planned_) {
    Begun& message = begun_.emplace_back(Begun{0, std::move(planned.then)});
    in_chunks(planned.data, planned.bytes, [&](std::byte* part, int bytes) {
      MPI_Request request = MPI_REQUEST_NULL;
      if (planned.is_send) {
        check_begun(MPI_Isend(part, bytes, MPI_BYTE, planned.peer, tag_, communicator_, &request),
                    "MPI_Isend");
      } else {
        check_begun(MPI_Irecv(part, bytes, MPI_BYTE, planned.peer, tag_, communicator_, &request),
                    "MPI_Irecv");
      }
      requests_.push_back(request);
      begun_of_.push_back(begun_.size() - 1);
      ++message.parts_left;
      ++requests_left_;
    });
  }
  planned_.clear();
}

bool Messages::done() {
  begin();
  if (requests_left_ == 0) return true;
  completed_.resize(requests_.size());
  int count = 0;
  check(MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                     completed_.data(), MPI_STATUSES_IGNORE),
        "MPI_Testsome");
  for (const int i : std::span(completed_).first(static_cast<std::size_t>(count))) {
    Begun& message = begun_[begun_of_[static_cast<std::size_t>(i)]];
    if (--message.parts_left == 0 && message.then) message.then();
  }
  requests_left_ -= static_cast<std::size_t>(count);
  return requests_left_ == 0;
}

}  // namespace shardmix::comm
