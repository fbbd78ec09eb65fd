#include "comm/node_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <new>

#include "comm/agree.hpp"
#include "device/pages.hpp"
#include "shardmix/error.hpp"

namespace shardmix::comm {
namespace {

[[noreturn]] void fail(std::string_view what) {
  throw CommError(
      fmt::format("memory that this node's ranks share can't be had: {}: {}; --collectives mpi "
                  "does without",
                  what, std::strerror(errno)));
}

/// Closes a file at the end of a scope.
class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

std::byte* map_file(int descriptor, std::int64_t bytes) {
  void* memory = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED,
                      descriptor, 0);
  if (memory == MAP_FAILED) fail(fmt::format("mmap of {} bytes", bytes));
  madvise(memory, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // a wish
  return static_cast<std::byte*>(memory);
}

}  // namespace

NodeMemory::NodeMemory(Collectives& collectives, device::Device* gpu)
    : collectives_(collectives), gpu_(gpu) {
  for (std::byte* memory : map(sizeof(NodeCounters)))
    counters_.push_back(reinterpret_cast<NodeCounters*>(memory));
  new (counters_[own_rank()]) NodeCounters;
  if (gpu == nullptr) {
    collectives_.barrier();
    return;
  }
  std::string marks;
  agreed(collectives_, [&] {
    share_ = share_device();
    marks = share_->export_marks();
  });
  const std::vector<std::string> all = collectives_.all_gather(marks);
  agreed(collectives_, [&] {
    for (std::size_t r = 0; r < counters_.size(); ++r)
      if (r != own_rank()) share_->open_marks(all[first_rank() + r]);
  });
}

NodeMemory::~NodeMemory() {
  std::vector<std::byte*> views;
  for (NodeCounters* c : counters_) views.push_back(reinterpret_cast<std::byte*>(c));
  unmap(views, sizeof(NodeCounters));
}

std::size_t NodeMemory::own_rank() const noexcept {
  return static_cast<std::size_t>(collectives_.group().topology().local_rank);
}

std::size_t NodeMemory::first_rank() const noexcept {
  return static_cast<std::size_t>(collectives_.rank()) - own_rank();
}

/// Every rank makes its part, and then opens its neighbours'.
std::vector<std::byte*> NodeMemory::map(std::int64_t bytes) {
  const Topology& topology = collectives_.group().topology();
  std::vector<std::byte*> views(static_cast<std::size_t>(topology.local_size), nullptr);
  int descriptor = -1;
  agreed(collectives_, [&] {
    descriptor = memfd_create("shardmix", MFD_CLOEXEC);
    if (descriptor < 0) fail("memfd_create");
  });
  const File own(descriptor);
  agreed(collectives_, [&] {
    if (ftruncate(descriptor, bytes) != 0) fail(fmt::format("ftruncate to {} bytes", bytes));
    views[own_rank()] = map_file(descriptor, bytes);
  });
  const auto paths = collectives_.all_gather(fmt::format("/proc/{}/fd/{}", getpid(), descriptor));
  agreed(collectives_, [&] {
    for (std::size_t r = 0; r < views.size(); ++r) {
      if (r == own_rank()) continue;
      const std::string& path = paths[first_rank() + r];
      const File peer(open(path.c_str(), O_RDWR | O_CLOEXEC));
      if (peer.descriptor() < 0) fail("open " + path);
      views[r] = map_file(peer.descriptor(), bytes);
    }
  });
  return views;
}

void NodeMemory::unmap(const std::vector<std::byte*>& views, std::int64_t bytes) noexcept {
  for (std::byte* memory : views) munmap(memory, static_cast<std::size_t>(bytes));
}

std::vector<std::byte*> NodeMemory::open_peers(std::byte* own) {
  std::vector<std::byte*> views(counters_.size(), nullptr);
  std::string name;
  agreed(collectives_, [&] { name = share_->export_memory(own); });
  const std::vector<std::string> names = collectives_.all_gather(name);
  agreed(collectives_, [&] {
    for (std::size_t r = 0; r < views.size(); ++r)
      views[r] = r == own_rank() ? own : share_->open_memory(names[first_rank() + r]);
  });
  return views;
}

void NodeMemory::close_peers(const std::vector<std::byte*>& views) noexcept {
  try {
    if (std::uncaught_exceptions() > 0) throw CommError("an error ends this rank");
    collectives_.wait_for_device();  // what is queued may still read and write there
    for (std::size_t r = 0; r < views.size(); ++r)
      if (r != own_rank()) share_->close_memory(views[r]);
    counters_[own_rank()]->closed.store(++closed_, std::memory_order_release);
    collectives_.group().watch().wait("the peers to close this rank's memory", [&] {
      return std::ranges::all_of(counters_, [&](const NodeCounters* c) {
        return c->closed.load(std::memory_order_acquire) >= closed_;
      });
    });
  } catch (const std::exception&) {
    device::keep_memory();
  }
}

device::Buffer NodeMemory::allocate(std::int64_t bytes) {
  if (bytes == 0) return {};
  const bool is_shared = share_ != nullptr;
  device::Buffer memory;
  if (is_shared) agreed(collectives_, [&] { memory = device::Buffer(*gpu_, bytes); });
  const std::vector<std::byte*> views = is_shared ? open_peers(memory.data()) : map(bytes);
  std::byte* own = views[own_rank()];
  mapped_[own + bytes] = views;
  return {own, bytes,
          [this, own, bytes, kept = std::make_shared<device::Buffer>(std::move(memory))] {
            const auto found = mapped_.find(own + bytes);
            if (share_)
              close_peers(found->second);
            else
              unmap(found->second, bytes);
            mapped_.erase(found);
          }};
}

void NodeMemory::discard(std::byte* memory, std::int64_t bytes) {
  device::discard_pages(memory, static_cast<std::size_t>(bytes), MADV_REMOVE);
}

std::vector<std::byte*> NodeMemory::views(std::byte* own, std::int64_t bytes) const {
  if (bytes == 0) return std::vector<std::byte*>(counters_.size(), own);
  const auto found = mapped_.upper_bound(own);
  if (found == mapped_.end() || own < found->second[own_rank()])
    throw CommError("a bucket lies in memory that the collectives didn't allocate");
  const std::ptrdiff_t offset = own - found->second[own_rank()];
  std::vector<std::byte*> places = found->second;
  for (std::byte*& place : places) place += offset;
  return places;
}

void NodeMemory::advance(Mark mark) {
  reach(mark, reached(mark) + 1);
}

void NodeMemory::reach(Mark mark, std::int64_t count, void* queue) {
  if (share_) share_->set(mark, count, queue == nullptr ? gpu_->queue() : queue);
  counters_[own_rank()]->of(mark).store(count, std::memory_order_release);
}

std::int64_t NodeMemory::reached(Mark mark) const noexcept {
  return counters_[own_rank()]->of(mark).load(std::memory_order_relaxed);
}

bool NodeMemory::all_reached(Mark mark, std::int64_t count) const noexcept {
  return std::ranges::all_of(counters_, [&](NodeCounters* c) {
    return c->of(mark).load(std::memory_order_acquire) >= count;
  });
}

void NodeMemory::await(Mark mark, std::int64_t count, std::string_view what) {
  collectives_.group().watch().wait(what, [&] { return all_reached(mark, count); });
  if (share_) share_->wait_for(mark, count, gpu_->queue());
}

void NodeMemory::order(Mark mark, std::int64_t count, void* queue) {
  if (share_) share_->wait_for(mark, count, queue);
}

}  // namespace shardmix::comm
