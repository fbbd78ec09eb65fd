#include <deque>
#include <vector>

#include "comm/nccl_peers.hpp"
#include "comm/node_collectives.hpp"
#include "comm/staging.hpp"
#include "comm/transports.hpp"

// As between hosts, rank l of a node is its node's hand for the slices of all ranks l: it adds its
// neighbours' gradients for them where those are, and NCCL brings each the sum. So each byte of a
// sum crosses the network once, and every GPU of a node has the same part of it.
//
// Three queues go on beside each other: the device's own, one that adds for the network and copies
// what came from it to the neighbours, and NCCL's.

namespace shardmix::comm {
namespace {

class NodeReduction;

class NcclHierarchicalCollectives final : public NodeCollectives {
 public:
  NcclHierarchicalCollectives(Group& group, device::Device& device)
      : NodeCollectives(group, device),
        adder_(device.beside()),
        peers_(*this, ranks_of_this_place(group.topology())),
        staging_([&](std::int64_t bytes) { return peers_.allocate_local(device, bytes); }) {}

  std::string_view name() const noexcept override { return "hierarchical"; }
  std::unique_ptr<Reduction> begin_reduce(const SlicedBucket& bucket) override;
  std::unique_ptr<Gather> begin_gather(const SlicedBucket& bucket, Written written) override;

  void add_up(device::SquareSum* sum) override {
    group().watch().enter();
    add_up_on_node(sum);
    peers_.all_reduce(work(), sum).hold(work());
  }

  void wait_for_device(bool (device::Device::*is_done)()) override {
    group().watch().wait("the GPU", [&] {
      peers_.require_health();
      return (device().*is_done)();
    });
  }

  /// Lets begun reductions go out, in their order, as far as all neighbours have begun them too.
  void send_posted();

  void forget(const NodeReduction* reduction) { std::erase(waiting_, reduction); }

  [[nodiscard]] const Topology& topology() const noexcept { return group().topology(); }
  [[nodiscard]] const NcclPeers& peers() const noexcept { return peers_; }
  [[nodiscard]] Staging& staging() noexcept { return staging_; }
  [[nodiscard]] device::Device& adder() const noexcept { return *adder_; }
  [[nodiscard]] cudaStream_t adding() const noexcept {
    return static_cast<cudaStream_t>(adder_->queue());
  }
  [[nodiscard]] cudaStream_t work() const noexcept {
    return static_cast<cudaStream_t>(device().queue());
  }
  /// Calls visit(node, rank) for the ranks that have this one's place on the other nodes, the next
  /// node first.
  template <class Visit>
  void for_each_counterpart(const Visit& visit) const {
    for (int distance = 1; distance < topology().nodes; ++distance) {
      const int node = (topology().node + distance) % topology().nodes;
      visit(node, topology().rank_at(node, topology().local_rank));
    }
  }

 private:
  static std::vector<int> ranks_of_this_place(const Topology& topology) {
    std::vector<int> ranks;
    for (int node = 0; node < topology.nodes; ++node)
      ranks.push_back(topology.rank_at(node, topology.local_rank));
    return ranks;
  }

  std::unique_ptr<device::Device> adder_;
  NcclPeers peers_;
  Staging staging_;
  std::deque<NodeReduction*> waiting_;  ///< to go out
};

class NodeReduction final : public Reduction {
 public:
  NodeReduction(NcclHierarchicalCollectives& collectives, const SlicedBucket& bucket,
                std::int64_t number)
      : collectives_(collectives),
        bucket_(bucket),
        number_(number),
        arrays_(static_cast<std::size_t>(collectives.topology().nodes)) {
    const std::int64_t own = sum_bytes(collectives.rank());
    std::int64_t bytes = own * collectives.topology().nodes;
    collectives.for_each_counterpart([&](int, int rank) { bytes += sum_bytes(rank); });
    staging_ = collectives.staging().take(bytes);
    begun_.record(collectives.work());
    collectives.memory().reach(Mark::posted, number);
  }

  ~NodeReduction() override {
    if (!is_sent_) {  // an error ends this rank
      collectives_.forget(this);
      return;
    }
    (void)cudaStreamWaitEvent(collectives_.work(), arrived_.get(), 0);
    (void)cudaStreamWaitEvent(collectives_.work(), added_.get(), 0);
    collectives_.staging().give(std::move(staging_));
    collectives_.memory().advance(Mark::finished);
  }

  bool ready() override {
    collectives_.send_posted();
    return is_sent_ && arrived_.is_reached();
  }

  Contributions contributions() override {
    collectives_.memory().await(Mark::posted, number_, "the node's gradients");
    collectives_.send_posted();
    arrived_.hold(collectives_.work());
    added_.hold(collectives_.work());
    return {.arrays = arrays_, .dtype = DType::fp32};
  }

  [[nodiscard]] bool is_posted() const {
    return collectives_.memory().all_reached(Mark::posted, number_);
  }

  /// Adds the neighbours' gradients for the counterparts, sends the sums, receives the other nodes'
  /// for this rank's slice, and adds this node's.
  void send() {
    const cudaStream_t adding = collectives_.adding();
    begun_.hold(adding);  // this rank's gradients are there, and nobody reads the staging any more
    collectives_.memory().order(Mark::posted, number_, adding);
    const std::int64_t own = sum_bytes(collectives_.rank());
    std::byte* const arriving = staging_.data();  // from each node, in order
    std::byte* const leaving = arriving + own * collectives_.topology().nodes;
    std::byte* next = leaving;
    collectives_.for_each_counterpart([&](int, int rank) {
      add(rank, next);
      next += sum_bytes(rank);
    });
    for (std::size_t node = 0; node < arrays_.size(); ++node)
      arrays_[node] = arriving + own * static_cast<std::int64_t>(node);
    arrived_ = collectives_.peers().exchange(adding, [&](const auto& send, const auto& receive) {
      next = leaving;
      collectives_.for_each_counterpart([&](int node, int rank) {
        receive(arriving + own * node, own, node);
        send(next, sum_bytes(rank), node);
        next += sum_bytes(rank);
      });
    });
    add(collectives_.rank(), arriving + own * collectives_.topology().node);
    added_.record(adding);
    is_sent_ = true;
  }

 private:
  [[nodiscard]] std::int64_t sum_bytes(int rank) const {
    return bucket_.slice_bytes(rank) / size_of(bucket_.dtype) * 4;
  }

  void add(int rank, std::byte* to) const {
    std::vector<const void*> sources;
    for (const std::byte* place :
         collectives_.memory().views(bucket_.slice(rank), bucket_.slice_bytes(rank))) {
      sources.push_back(place);
    }
    collectives_.adder().reduce({.sources = sources,
                                 .dtype = bucket_.dtype,
                                 .elements = bucket_.slice_bytes(rank) / size_of(bucket_.dtype),
                                 .sum = reinterpret_cast<float*>(to)});
  }

  NcclHierarchicalCollectives& collectives_;
  SlicedBucket bucket_;
  std::int64_t number_;
  std::vector<const void*> arrays_;
  device::Buffer staging_;
  CudaEvent begun_;    ///< on the device's queue
  CudaEvent arrived_;  ///< the other nodes' sums
  CudaEvent added_;    ///< this node's
  bool is_sent_ = false;
};

void NcclHierarchicalCollectives::send_posted() {
  while (!waiting_.empty() && waiting_.front()->is_posted()) {
    waiting_.front()->send();
    waiting_.pop_front();
  }
}

class NodeGather final : public Gather {
 public:
  NodeGather(NcclHierarchicalCollectives& collectives, const SlicedBucket& bucket,
             std::int64_t number)
      : collectives_(collectives), number_(number) {
    const CudaEvent arrived = collectives.peers().exchange(
        collectives.work(), [&](const auto& send, const auto& receive) {
          collectives.for_each_counterpart([&](int node, int rank) {
            receive(bucket.slice(rank), bucket.slice_bytes(rank), node);
            send(bucket.slice(collectives.rank()), bucket.slice_bytes(collectives.rank()), node);
          });
        });
    arrived.hold(collectives.adding());
    collectives.for_each_counterpart([&](int, int rank) {
      for (std::byte* copy : collectives.neighbours(bucket, rank)) {
        collectives.adder().queue_copy(copy, bucket.slice(rank),
                                       static_cast<std::size_t>(bucket.slice_bytes(rank)));
      }
    });
    collectives.memory().reach(Mark::written, number, collectives.adder().queue());
    done_.record(collectives.adding());
  }

  /// Nothing that is queued later, and no one who waits for it, may find it under way.
  ~NodeGather() override { (void)cudaStreamWaitEvent(collectives_.work(), done_.get(), 0); }

  void wait() override {
    done_.hold(collectives_.work());
    collectives_.memory().await(Mark::written, number_, "the peers' new parameters");
  }

 private:
  NcclHierarchicalCollectives& collectives_;
  std::int64_t number_;
  CudaEvent done_;
};

std::unique_ptr<Reduction> NcclHierarchicalCollectives::begin_reduce(const SlicedBucket& bucket) {
  group().watch().enter();
  const std::int64_t number = count_reduction();
  // A neighbour that still waits for an earlier mark in this one's place would wait for this one,
  // and so for sums that may wait for it.
  if (number > remembered_marks) {
    memory().await(Mark::finished, number - remembered_marks,
                   "the node to send what this rank's earlier gradients are in");
  }
  auto begun = std::make_unique<NodeReduction>(*this, bucket, number);
  waiting_.push_back(begun.get());
  send_posted();
  return begun;
}

std::unique_ptr<Gather> NcclHierarchicalCollectives::begin_gather(const SlicedBucket& bucket,
                                                                  Written written) {
  group().watch().enter();
  return std::make_unique<NodeGather>(*this, bucket, publish(bucket, written));
}

}  // namespace

std::unique_ptr<Collectives> nccl_hierarchical_collectives(Group& group, device::Device& device) {
  return std::make_unique<NcclHierarchicalCollectives>(group, device);
}

}  // namespace shardmix::comm
