#pragma once

/// A communicator of NCCL, the stream on which it moves bytes, and memory that it moves without
/// copies of its own.

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/collectives.hpp"
#include "comm/cuda_calls.hpp"

namespace shardmix::comm {

/// Some of a group's ranks, this one among them. They call everything in the same order.
class NcclPeers {
 public:
  /// Collective over all ranks of `collectives`, which must outlive this object: each gives the
  /// list of ranks that it belongs to, the same on all of them.
  NcclPeers(Collectives& collectives, std::span<const int> ranks);
  ~NcclPeers();
  NcclPeers(const NcclPeers&) = delete;
  NcclPeers& operator=(const NcclPeers&) = delete;

  [[nodiscard]] int size() const noexcept { return size_; }
  /// This rank's, in the list.
  [[nodiscard]] int place() const noexcept { return place_; }

  /// Zeroed memory, of the same size on all ranks of the group: a window of the communicator,
  /// where NCCL has them. Collective.
  [[nodiscard]] device::Buffer allocate(device::Device& device, std::int64_t bytes);
  /// The same for this rank alone, of any size and with any content. Local.
  [[nodiscard]] device::Buffer allocate_local(const device::Device& device,
                                              std::int64_t bytes) const;

  /// Queues sends and receives as one group, behind what `queue` has so far: calls
  /// `calls(send, receive)`, each of (address, bytes, place). The event tells when it is done.
  template <class Calls>
  [[nodiscard]] CudaEvent exchange(cudaStream_t queue, const Calls& calls) const {
    return queue_behind(queue, "ncclGroupEnd", [&] {
      require(ncclGroupStart(), "ncclGroupStart");
      calls(
          [&](const std::byte* data, std::int64_t bytes, int to) {
            require(ncclSend(data, static_cast<std::size_t>(bytes), ncclUint8, to, communicator_,
                             stream_),
                    "ncclSend");
          },
          [&](std::byte* data, std::int64_t bytes, int from) {
            require(ncclRecv(data, static_cast<std::size_t>(bytes), ncclUint8, from, communicator_,
                             stream_),
                    "ncclRecv");
          });
      return ncclGroupEnd();
    });
  }
  /// Queues a gather of equal parts; this rank's is in its place.
  [[nodiscard]] CudaEvent all_gather(cudaStream_t queue, std::byte* data,
                                     std::int64_t part_bytes) const;
  /// Queues the sum over the peers of one in memory of the device.
  [[nodiscard]] CudaEvent all_reduce(cudaStream_t queue, device::SquareSum* sum) const;

  /// Throws CommError if something that was queued has failed.
  void require_health() const { (void)state("an exchange between the GPUs"); }

 private:
  template <class Begin>
  [[nodiscard]] CudaEvent queue_behind(cudaStream_t queue, const char* call,
                                       const Begin& begin) const {
    CudaEvent event;
    event.record(queue);
    event.hold(stream_);
    require(begin(), call);
    settle(call);
    event.record(stream_);
    return event;
  }
  /// Memory that NCCL knows by one of two handles.
  [[nodiscard]] device::Buffer known(std::byte* memory, std::int64_t bytes, void* window) const;
  void require(ncclResult_t status, const char* call) const;
  /// Waits until a non-blocking call has been carried out.
  void settle(const char* call) const;
  [[nodiscard]] ncclResult_t state(const char* what) const;

  Collectives& collectives_;
  int size_;
  int place_;
  cudaStream_t stream_ = nullptr;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace shardmix::comm
