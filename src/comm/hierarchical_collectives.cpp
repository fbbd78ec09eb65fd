#include <algorithm>
#include <cstring>
#include <vector>

#include "comm/messages.hpp"
#include "comm/mpi_check.hpp"
#include "comm/node_collectives.hpp"
#include "comm/progress.hpp"
#include "comm/staging.hpp"
#include "comm/transports.hpp"

// Rank l of a node is its node's hand for the slices of all ranks l: it adds its neighbours'
// gradients for them and sends each the sum, so that every byte of a sum crosses the network once
// and all of a node's ranks share the work. Slices are cut into chunks, so that adding, sending and
// copying go on at the same time.

namespace shardmix::comm {
namespace {

/// What is added, sent, received and copied as one. Below the 64 KiB up to which MPI libraries send
/// over TCP at once: beyond, each message waits for an answer that stands in line behind the bulk
/// which travels the other way.
constexpr std::int64_t chunk_bytes = std::int64_t{60} << 10;
constexpr int first_tag = 2;
constexpr std::int64_t tags = 16384;

/// Calls visit(begin, bytes).
template <class Visit>
void for_each_chunk(std::int64_t bytes, const Visit& visit) {
  for (std::int64_t begin = 0; begin < bytes; begin += chunk_bytes)
    visit(begin, std::min(chunk_bytes, bytes - begin));
}

class HierarchicalCollectives final : public NodeCollectives {
 public:
  HierarchicalCollectives(Group& group, device::Device& device)
      : NodeCollectives(group, device),
        communicator_(group.duplicate()),
        adder_(device.beside()),
        staging_(device),
        progress_(group.watch(), group.allows_threads()) {}

  ~HierarchicalCollectives() override {
    if (!group().watch().over()) MPI_Comm_free(&communicator_);
  }

  std::string_view name() const noexcept override { return "hierarchical"; }
  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;

  [[nodiscard]] const Topology& topology() const noexcept { return group().topology(); }
  [[nodiscard]] MPI_Comm communicator() const noexcept { return communicator_; }
  [[nodiscard]] device::Device& adder() const noexcept { return *adder_; }
  [[nodiscard]] Staging& staging() noexcept { return staging_; }
  [[nodiscard]] Progress& progress() noexcept { return progress_; }

  /// The ranks that have this one's place on the other nodes, the next node first.
  [[nodiscard]] std::vector<int> counterparts() const {
    std::vector<int> ranks;
    for (int distance = 1; distance < topology().nodes; ++distance)
      ranks.push_back(topology().rank_at((topology().node + distance) % topology().nodes,
                                         topology().local_rank));
    return ranks;
  }

 private:
  MPI_Comm communicator_;
  std::unique_ptr<device::Device> adder_;  ///< its sums may go on beside the device's own work
  Staging staging_;
  Progress progress_;  // ends first: its thread uses the others
};

int tag_of(std::int64_t number, bool is_gather) {
  return first_tag + static_cast<int>(2 * (number % tags)) + (is_gather ? 1 : 0);
}

/// Adds this node's gradients for the slices of its counterparts and sends the sums, receives the
/// other nodes' sums for its own slice, and adds its own node's.
class NodeSums final : public Operation {
 public:
  NodeSums(HierarchicalCollectives& collectives, const SlicedBucket& bucket, std::int64_t number)
      : collectives_(collectives),
        bucket_(bucket),
        number_(number),
        messages_(collectives.communicator(), tag_of(number, false)),
        counterparts_(collectives.counterparts()) {
    const Topology& topology = collectives.topology();
    const std::int64_t own = sum_bytes(collectives.rank());
    std::int64_t bytes = own * topology.nodes;
    for (const int r : counterparts_) bytes += sum_bytes(r);
    staging = collectives.staging().take(bytes);
    arrays_.resize(static_cast<std::size_t>(topology.nodes));
    std::byte* next = staging.data();
    const auto place = [&](int node) {
      arrays_[static_cast<std::size_t>(node)] = next;
      next += own;
    };
    place(topology.node);
    for (const int r : counterparts_) {
      std::byte* to = next;
      place(r / topology.local_size);
      for_each_chunk(own, [&](std::int64_t begin, std::int64_t count) {
        messages_.receive(to + begin, count, r);
      });
    }
    // The counterparts' slices first: they have the longer way.
    for (const int r : counterparts_) {
      add_work(r, next);
      next += sum_bytes(r);
    }
    add_work(collectives.rank(), staging.data());
  }

  bool advance() override {
    messages_.begin();
    if (!all_posted_) {
      all_posted_ = collectives_.memory().all_reached(Mark::posted, number_);
      if (!all_posted_) return false;
    }
    for (; next_work_ < work_.size(); ++next_work_) {
      const Work& work = work_[next_work_];
      add(work);
      if (work.rank != collectives_.rank()) {
        messages_.send(work.to, 4 * work.elements, work.rank);
        (void)messages_.done();  // moves what is under way
      }
    }
    return messages_.done();
  }

  [[nodiscard]] std::span<const void* const> arrays() const noexcept { return arrays_; }

  device::Buffer staging;

 private:
  /// A chunk of a rank's slice.
  struct Work {
    int rank = 0;
    std::int64_t begin = 0;  ///< in elements of the slice
    std::int64_t elements = 0;
    std::byte* to = nullptr;
  };

  [[nodiscard]] std::int64_t sum_bytes(int rank) const {
    return bucket_.slice_bytes(rank) / size_of(bucket_.dtype) * 4;
  }

  void add_work(int rank, std::byte* to) {
    for_each_chunk(sum_bytes(rank), [&](std::int64_t begin, std::int64_t count) {
      work_.push_back({rank, begin / 4, count / 4, to + begin});
    });
  }

  void add(const Work& work) {
    std::vector<const void*> sources;
    for (const std::byte* place :
         collectives_.memory().views(bucket_.slice(work.rank), bucket_.slice_bytes(work.rank))) {
      sources.push_back(place + work.begin * size_of(bucket_.dtype));
    }
    collectives_.adder().reduce({.sources = sources,
                                 .dtype = bucket_.dtype,
                                 .elements = work.elements,
                                 .sum = reinterpret_cast<float*>(work.to)});
  }

  HierarchicalCollectives& collectives_;
  SlicedBucket bucket_;
  std::int64_t number_;
  Messages messages_;
  std::vector<int> counterparts_;
  std::vector<const void*> arrays_;
  std::vector<Work> work_;
  std::size_t next_work_ = 0;
  bool all_posted_ = false;
};

class HierarchicalReduction final : public Reduction {
 public:
  HierarchicalReduction(HierarchicalCollectives& collectives, const SlicedBucket& bucket,
                        std::int64_t number)
      : collectives_(collectives), sums_(std::make_shared<NodeSums>(collectives, bucket, number)) {
    collectives.memory().reach(Mark::posted, number);
    collectives.progress().start(sums_);
  }

  ~HierarchicalReduction() override {
    if (!collectives_.progress().leave(*sums_)) return;
    collectives_.staging().give(std::move(sums_->staging));
    collectives_.memory().advance(Mark::finished);
  }

  bool ready() override { return collectives_.progress().poll(*sums_); }

  Contributions contributions() override {
    collectives_.progress().wait(*sums_, "the other nodes' gradients");
    return {.arrays = sums_->arrays(), .dtype = DType::fp32};
  }

 private:
  HierarchicalCollectives& collectives_;
  std::shared_ptr<NodeSums> sums_;
};

/// Sends this rank's slice to its counterparts, and copies what comes from them to its neighbours.
class NodeCopies final : public Operation {
 public:
  NodeCopies(HierarchicalCollectives& collectives, const SlicedBucket& bucket, std::int64_t number)
      : collectives_(collectives),
        number_(number),
        arrivals_(collectives.communicator(), tag_of(number, true)),
        sends_(collectives.communicator(), tag_of(number, true)) {
    const int rank = collectives.rank();
    for (const int r : collectives.counterparts()) {
      const std::vector<std::byte*> copies = collectives.neighbours(bucket, r);
      for_each_chunk(bucket.slice_bytes(r), [&](std::int64_t begin, std::int64_t bytes) {
        std::byte* at = bucket.slice(r) + begin;
        arrivals_.receive(at, bytes, r, [at, begin, bytes, copies] {
          for (std::byte* copy : copies)
            std::memcpy(copy + begin, at, static_cast<std::size_t>(bytes));
        });
      });
      for_each_chunk(bucket.slice_bytes(rank), [&](std::int64_t begin, std::int64_t bytes) {
        sends_.send(bucket.slice(rank) + begin, bytes, r);
      });
    }
  }

  bool advance() override {
    const bool has_arrived = arrivals_.done();
    const bool is_sent = sends_.done();
    if (!has_arrived) return false;
    // In the order of gathers, which the counter can't leave.
    NodeMemory& memory = collectives_.memory();
    if (memory.reached(Mark::written) == number_ - 1) memory.reach(Mark::written, number_);
    return is_sent && memory.reached(Mark::written) >= number_;
  }

 private:
  HierarchicalCollectives& collectives_;
  std::int64_t number_;
  Messages arrivals_;
  Messages sends_;
};

class HierarchicalGather final : public Gather {
 public:
  HierarchicalGather(HierarchicalCollectives& collectives, const SlicedBucket& bucket,
                     std::int64_t number)
      : collectives_(collectives),
        number_(number),
        copies_(std::make_shared<NodeCopies>(collectives, bucket, number)) {
    collectives.progress().start(copies_);
  }

  ~HierarchicalGather() override { collectives_.progress().leave(*copies_); }

  void wait() override {
    collectives_.progress().wait(*copies_, "the other nodes' new parameters");
    collectives_.memory().await(Mark::written, number_, "the node's new parameters");
  }

 private:
  HierarchicalCollectives& collectives_;
  std::int64_t number_;
  std::shared_ptr<NodeCopies> copies_;
};

std::unique_ptr<Reduction> HierarchicalCollectives::begin_reduce(const SlicedBucket& bucket) {
  std::unique_ptr<Reduction> begun;
  group().watch().begin("a reduction", [&] {
    begun = std::make_unique<HierarchicalReduction>(*this, bucket, count_reduction());
  });
  return begun;
}

std::unique_ptr<Gather> HierarchicalCollectives::begin_gather(const SlicedBucket& bucket,
                                                              Written written) {
  const std::int64_t number = publish(bucket, written);
  std::unique_ptr<Gather> begun;
  group().watch().begin(
      "a gather", [&] { begun = std::make_unique<HierarchicalGather>(*this, bucket, number); });
  return begun;
}

}  // namespace

std::unique_ptr<Collectives> hierarchical_collectives(Group& group, device::Device& device) {
  return std::make_unique<HierarchicalCollectives>(group, device);
}

}  // namespace shardmix::comm
