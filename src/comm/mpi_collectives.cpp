#include "comm/mpi_collectives.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <numeric>

#include "comm/abort.hpp"
#include "comm/mpi_check.hpp"
#include "shardmix/error.hpp"

namespace shardmix::comm {

void check(int status, const char* call, std::source_location where) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw CommError(fmt::format("{} failed on rank {} ({}:{}): {}", call, rank, where.file_name(),
                              where.line(), text));
}

void abort_all(int exit_code) noexcept {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::abort();  // MPI_Abort doesn't return
}

namespace {

/// MPI counts are int: the one place where larger messages are cut.
constexpr std::int64_t largest_message = std::int64_t{1} << 30;
constexpr int tag = 1;

template <class Call>
void in_chunks(std::byte* data, std::int64_t bytes, const Call& call) {
  for (std::int64_t begin = 0; begin < bytes; begin += largest_message) {
    call(data + begin, static_cast<int>(std::min(largest_message, bytes - begin)));
  }
}

/// Non-blocking sends and receives that are awaited together.
class Messages {
 public:
  explicit Messages(MPI_Comm communicator) : communicator_(communicator) {}
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;

  /// MPI may use the memory until they are done. Not while an exception ends this rank: a peer may
  /// be gone.
  ~Messages() {
    if (!requests_.empty() && std::uncaught_exceptions() == 0) {
      MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
    }
  }

  void send(std::byte* data, std::int64_t bytes, int to) {
    in_chunks(data, bytes, [&](std::byte* chunk, int count) {
      check(MPI_Isend(chunk, count, MPI_BYTE, to, tag, communicator_, &requests_.emplace_back()),
            "MPI_Isend");
    });
  }

  void receive(std::byte* data, std::int64_t bytes, int from) {
    in_chunks(data, bytes, [&](std::byte* chunk, int count) {
      check(MPI_Irecv(chunk, count, MPI_BYTE, from, tag, communicator_, &requests_.emplace_back()),
            "MPI_Irecv");
    });
  }

  void wait() {
    check(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
          "MPI_Waitall");
    requests_.clear();
  }

 private:
  MPI_Comm communicator_;
  std::vector<MPI_Request> requests_;
};

/// The other ranks, each rank beginning with its next neighbour so that no one is asked by all at
/// once.
template <class Visit>
void for_each_peer(int rank, int size, const Visit& visit) {
  for (int distance = 1; distance < size; ++distance) visit((rank + distance) % size);
}

class MpiCollectives final : public Collectives {
 public:
  MpiCollectives(MPI_Comm communicator, device::Device& device)
      : communicator_(communicator), device_(device) {
    check(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
  }

  ~MpiCollectives() override { MPI_Comm_free(&communicator_); }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string_view name() const noexcept override { return "mpi"; }

  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket) override;

  void all_reduce_sum(std::span<double> values) override {
    all_reduce(values, MPI_DOUBLE, MPI_SUM);
  }
  void all_reduce_sum(std::span<std::int64_t> values) override {
    all_reduce(values, MPI_INT64_T, MPI_SUM);
  }
  void all_reduce_min(std::span<std::int64_t> values) override {
    all_reduce(values, MPI_INT64_T, MPI_MIN);
  }
  void all_reduce_max(std::span<std::int64_t> values) override {
    all_reduce(values, MPI_INT64_T, MPI_MAX);
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    in_chunks(bytes.data(), std::ssize(bytes), [&](std::byte* chunk, int count) {
      check(MPI_Bcast(chunk, count, MPI_BYTE, root, communicator_), "MPI_Bcast");
    });
  }

  std::vector<std::string> all_gather(std::string_view text) override {
    const int own = static_cast<int>(text.size());
    std::vector<int> lengths(static_cast<std::size_t>(size_));
    check(MPI_Allgather(&own, 1, MPI_INT, lengths.data(), 1, MPI_INT, communicator_),
          "MPI_Allgather");
    std::vector<int> begins(lengths.size());
    std::exclusive_scan(lengths.begin(), lengths.end(), begins.begin(), 0);
    std::string all(static_cast<std::size_t>(begins.back() + lengths.back()), '\0');
    check(MPI_Allgatherv(text.data(), own, MPI_CHAR, all.data(), lengths.data(), begins.data(),
                         MPI_CHAR, communicator_),
          "MPI_Allgatherv");
    std::vector<std::string> texts;
    for (std::size_t r = 0; r < lengths.size(); ++r) {
      texts.push_back(
          all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
    }
    return texts;
  }

  void barrier() override { check(MPI_Barrier(communicator_), "MPI_Barrier"); }

  /// Memory for arriving slices, kept between steps.
  device::Buffer take_staging(std::int64_t bytes) {
    const auto fits =
        std::ranges::find_if(staging_, [&](const device::Buffer& b) { return b.bytes() >= bytes; });
    if (fits == staging_.end()) return {device_, bytes};
    device::Buffer buffer = std::move(*fits);
    staging_.erase(fits);
    return buffer;
  }
  void give_staging(device::Buffer buffer) { staging_.push_back(std::move(buffer)); }

  MPI_Comm communicator() const noexcept { return communicator_; }

 private:
  template <class T>
  void all_reduce(std::span<T> values, MPI_Datatype type, MPI_Op op) {
    check(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), type, op,
                        communicator_),
          "MPI_Allreduce");
  }

  MPI_Comm communicator_;
  device::Device& device_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<device::Buffer> staging_;
};

/// Every rank sends each peer the peer's slice, and receives its own slice from each.
class MpiReduction final : public Reduction {
 public:
  MpiReduction(MpiCollectives& collectives, const SlicedBucket& bucket)
      : collectives_(collectives), messages_(collectives.communicator()) {
    const int rank = collectives.rank();
    const int size = collectives.size();
    const auto cut = [&](int r) { return bucket.cuts[static_cast<std::size_t>(r)]; };
    const std::int64_t own = cut(rank + 1) - cut(rank);
    staging_ = collectives.take_staging(own * (size - 1));
    sources_.resize(static_cast<std::size_t>(size));
    sources_[static_cast<std::size_t>(rank)] = bucket.data + cut(rank);
    std::byte* next = staging_.data();
    for_each_peer(rank, size, [&](int peer) {
      messages_.receive(next, own, peer);
      sources_[static_cast<std::size_t>(peer)] = next;
      next += own;
    });
    for_each_peer(rank, size, [&](int peer) {
      messages_.send(bucket.data + cut(peer), cut(peer + 1) - cut(peer), peer);
    });
  }

  ~MpiReduction() override { collectives_.give_staging(std::move(staging_)); }

  std::span<const void* const> sources() override {
    messages_.wait();
    return sources_;
  }

 private:
  MpiCollectives& collectives_;
  Messages messages_;
  device::Buffer staging_;
  std::vector<const void*> sources_;
};

class MpiGather final : public Gather {
 public:
  MpiGather(const MpiCollectives& collectives, const SlicedBucket& bucket)
      : messages_(collectives.communicator()) {
    const int rank = collectives.rank();
    const auto cut = [&](int r) { return bucket.cuts[static_cast<std::size_t>(r)]; };
    for_each_peer(rank, collectives.size(), [&](int peer) {
      messages_.receive(bucket.data + cut(peer), cut(peer + 1) - cut(peer), peer);
    });
    for_each_peer(rank, collectives.size(), [&](int peer) {
      messages_.send(bucket.data + cut(rank), cut(rank + 1) - cut(rank), peer);
    });
  }

  void wait() override { messages_.wait(); }

 private:
  Messages messages_;
};

std::unique_ptr<Reduction> MpiCollectives::begin_reduce(const SlicedBucket& bucket) {
  return std::make_unique<MpiReduction>(*this, bucket);
}

std::unique_ptr<Gather> MpiCollectives::begin_gather(const SlicedBucket& bucket) {
  return std::make_unique<MpiGather>(*this, bucket);
}

}  // namespace

std::unique_ptr<Collectives> mpi_collectives(MPI_Comm communicator, device::Device& device) {
  return std::make_unique<MpiCollectives>(communicator, device);
}

}  // namespace shardmix::comm
