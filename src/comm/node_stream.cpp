#include "comm/node_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "shardmix/error.hpp"

namespace shardmix::comm {

/// Slots go round. Each end alone writes its count.
struct NodeStream::Shared {
  alignas(64) std::atomic<std::int64_t> given;  ///< slots
  std::array<std::int64_t, slots> filled;       ///< bytes of each
  alignas(64) std::atomic<std::int64_t> taken;
  alignas(64) std::atomic<int> closings;  ///< the first one's reason counts
  std::atomic<bool> closed;
  std::array<char, 1024> reason;
};

NodeStream::NodeStream(std::byte* memory, std::chrono::milliseconds deadline)
    : shared_(*reinterpret_cast<Shared*>(memory)), deadline_(deadline) {
  static_assert(sizeof(Shared) <= memory_bytes - slots * slot_bytes);
}

std::span<std::byte> NodeStream::slot(std::int64_t number) const noexcept {
  std::byte* first = reinterpret_cast<std::byte*>(&shared_) + (memory_bytes - slots * slot_bytes);
  return {first + number % slots * slot_bytes, static_cast<std::size_t>(slot_bytes)};
}

void NodeStream::wait(const std::function<bool()>& done) const {
  const auto end = std::chrono::steady_clock::now() + deadline_;
  while (!done()) {
    if (shared_.closed.load(std::memory_order_acquire)) throw CommError(shared_.reason.data());
    if (std::chrono::steady_clock::now() > end) {
      throw CommError(fmt::format("a rank of this node did nothing for {:g} s",
                                  std::chrono::duration<double>(deadline_).count()));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

void NodeStream::give(const std::function<std::int64_t(std::span<std::byte>)>& fill) {
  const std::int64_t number = shared_.given.load(std::memory_order_relaxed);
  wait([&] { return number - shared_.taken.load(std::memory_order_acquire) < slots; });
  shared_.filled[static_cast<std::size_t>(number % slots)] = fill(slot(number));
  shared_.given.store(number + 1, std::memory_order_release);
}

void NodeStream::take(std::span<std::byte> to) {
  while (!to.empty()) {
    const std::int64_t number = shared_.taken.load(std::memory_order_relaxed);
    wait([&] { return shared_.given.load(std::memory_order_acquire) > number; });
    const std::int64_t filled = shared_.filled[static_cast<std::size_t>(number % slots)];
    const std::int64_t bytes = std::min(std::ssize(to), filled - used_);
    std::memcpy(to.data(), slot(number).data() + used_, static_cast<std::size_t>(bytes));
    to = to.subspan(static_cast<std::size_t>(bytes));
    used_ += bytes;
    if (used_ < filled) continue;
    used_ = 0;
    shared_.taken.store(number + 1, std::memory_order_release);
  }
}

void NodeStream::close(std::string_view reason) noexcept {
  if (shared_.closings++ > 0) return;
  reason.copy(shared_.reason.data(), shared_.reason.size() - 1);
  shared_.closed.store(true, std::memory_order_release);
}

}  // namespace shardmix::comm
