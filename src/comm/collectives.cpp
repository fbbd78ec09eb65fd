#include "comm/collectives.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "comm/agree.hpp"
#include "comm/group.hpp"
#include "comm/mpi_chunks.hpp"
#include "comm/queue_watch.hpp"

namespace shardmix::comm {
namespace {

/// Begins a non-blocking MPI call and waits for it under the group's deadline.
template <class Begin>
void run(const Group& group, std::string_view what, const char* call, const Begin& begin) {
  MPI_Request request = MPI_REQUEST_NULL;
  group.watch().begin(what, [&] { check(begin(&request), call); });
  group.watch().finish(request, what);
}

void all_reduce(const Group& group, std::span<std::int64_t> values, MPI_Op op) {
  if (group.size() == 1) return;
  run(group, "an all-reduce", "MPI_Iallreduce", [&](MPI_Request* request) {
    return MPI_Iallreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_INT64_T,
                          op, group.communicator(), request);
  });
}

}  // namespace

Collectives::Collectives(Group& group, device::Device& device) : group_(group), device_(device) {
  if (!device.is_host() && group.size() > 1 && group.allows_threads())
    queue_watch_ = std::make_unique<QueueWatch>(group.watch(), device);
}

Collectives::~Collectives() = default;

int Collectives::rank() const noexcept {
  return group_.rank();
}
int Collectives::size() const noexcept {
  return group_.size();
}

device::Buffer Collectives::allocate(std::int64_t bytes) {
  device::Buffer buffer;
  agreed(*this, [&] { buffer = device::Buffer(device_, bytes); });
  return buffer;
}

void Collectives::discard(std::byte* memory, std::int64_t bytes) {
  device_.discard(memory, static_cast<std::size_t>(bytes));
}

void Collectives::add_up(device::SquareSum* sum) {
  wait_for_device();
  device::SquareSum here;
  device_.copy(&here, sum, sizeof here);
  std::array<std::int64_t, device::square_sum_values> values{};
  std::memcpy(values.data(), &here, sizeof here);
  all_reduce_sum(values);
  device_.copy(sum, values.data(), sizeof here);
}

void Collectives::wait_for_device(bool (device::Device::*is_done)()) {
  if ((device_.*is_done)()) return;
  group_.watch().wait("the device", [&] { return (device_.*is_done)(); });
}

void Collectives::lead_trainer() {
  device_.lead_trainer();
  if (queue_watch_) queue_watch_->look_after();
}

std::int64_t Collectives::count_reduction() {
  if (queue_watch_) queue_watch_->look_after();
  return ++reductions_;
}

void Collectives::all_reduce_sum(std::span<std::int64_t> values) {
  all_reduce(group_, values, MPI_SUM);
}
void Collectives::all_reduce_min(std::span<std::int64_t> values) {
  all_reduce(group_, values, MPI_MIN);
}
void Collectives::all_reduce_max(std::span<std::int64_t> values) {
  all_reduce(group_, values, MPI_MAX);
}

void Collectives::broadcast(std::span<std::byte> bytes, int root) {
  if (size() == 1) return;
  in_chunks(bytes.data(), std::ssize(bytes), [&](std::byte* chunk, int count) {
    run(group_, "a broadcast", "MPI_Ibcast", [&](MPI_Request* request) {
      return MPI_Ibcast(chunk, count, MPI_BYTE, root, group_.communicator(), request);
    });
  });
}

std::vector<std::string> Collectives::all_gather(std::string_view text) {
  const int own = static_cast<int>(text.size());
  std::vector<int> lengths(static_cast<std::size_t>(size()));
  run(group_, "a gather of lengths", "MPI_Iallgather", [&](MPI_Request* request) {
    return MPI_Iallgather(&own, 1, MPI_INT, lengths.data(), 1, MPI_INT, group_.communicator(),
                          request);
  });
  std::vector<int> begins(lengths.size());
  std::exclusive_scan(lengths.begin(), lengths.end(), begins.begin(), 0);
  std::string all(static_cast<std::size_t>(begins.back() + lengths.back()), '\0');
  run(group_, "a gather of texts", "MPI_Iallgatherv", [&](MPI_Request* request) {
    return MPI_Iallgatherv(text.data(), own, MPI_CHAR, all.data(), lengths.data(), begins.data(),
                           MPI_CHAR, group_.communicator(), request);
  });
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    texts.push_back(
        all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
  }
  return texts;
}

void Collectives::barrier() {
  run(group_, "a barrier", "MPI_Ibarrier",
      [&](MPI_Request* request) { return MPI_Ibarrier(group_.communicator(), request); });
}

}  // namespace shardmix::comm
