#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "device/block_reduce.hpp"
#include "device/block_update.hpp"
#include "device/decision.hpp"
#include "device/pages.hpp"
#include "shardmix/error.hpp"

// One source, three instruction sets, chosen when the program starts. Sanitizers run before the
// choice could. Tests compile each of them alone.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(SHARDMIX_ONE_INSTRUCTION_SET)
#define SHARDMIX_MULTIVERSIONED \
  [[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]]
#else
#define SHARDMIX_MULTIVERSIONED
#endif

namespace shardmix::device {
namespace {

using math::block_elements;
using math::block_key;

constexpr int n = block_elements;

template <StateStorage State, class Kernel>
SHARDMIX_MULTIVERSIONED void update_blocks(const Kernel& kernel, float gradient_scale,
                                           const UpdateArrays& arrays, std::int64_t begin,
                                           std::int64_t end) {
  const Kernel scalars = kernel;  // copies that no store below can alias
  const UpdateArrays a = arrays;
  const bool rounds = rounds_parameters(a);
  alignas(64) float g_buffer[n];
  alignas(64) float theta_buffer[n];
  alignas(64) std::uint32_t random[n];
  States<n, State> states;
  math::Roots roots;
  for (std::int64_t first = begin; first < end; first += n) {
    const std::int64_t block = a.first_block + first / n;
    const float* g = load_gradient<n>(a, first, g_buffer);
    float* theta = load_weights<n>(a, first, theta_buffer);
    const auto at = states.load(a, first);
    if constexpr (State == StateStorage::full) {
      states.update(scalars, at, gradient_scale, g, theta, roots);
      states.store(a, first, at);
    } else {
      const math::Largest largest = states.update(scalars, at, gradient_scale, g, theta, roots);
      states.store(a, first, largest, block_key(a.random.state, block), 0);
    }
    if (rounds) {
      for_each_random<n>(block_key(a.random.parameter, block), 0,
                         [&](int i, std::uint32_t bits) { random[i] = bits; });
    }
    store_weights<n>(a, first, theta, random);
  }
}

SHARDMIX_MULTIVERSIONED void reduce_blocks(const ReduceTask& task, std::int64_t begin,
                                           std::int64_t end, SquareSum& squares) {
  alignas(64) float total[n];
  for (std::int64_t first = begin; first < end; first += n) {
    sum_tree<n>(task.dtype, task.sources.data(), static_cast<int>(task.sources.size()), first,
                total);
    add_partials<n>(task.partials.data(), static_cast<int>(task.partials.size()), first, total);
    if (task.sum != nullptr) store<n>(total, task.sum + first);
    if (task.squares == nullptr) continue;
    if (are_usable<n>(total)) {
      math::ExactSum::split(sum_of_squares(total), [&](int digit, std::uint64_t part) {
        squares.digits[digit] += static_cast<std::int64_t>(part);
      });
    } else {
      ++squares.unusable;
    }
  }
}

/// Reads `bytes`, and writes back what was read if `written`. The mask is 0: the compiler doesn't
/// know.
SHARDMIX_HOST_DEVICE std::uint64_t pass_over(const StreamArray& array, std::int64_t begin,
                                             std::int64_t bytes, std::uint64_t mask) {
  // A block's scales are a multiple of 4 bytes, and not of 8.
  auto* words = reinterpret_cast<std::uint32_t*>(array.data + begin);
  const std::int64_t count = bytes / std::int64_t{sizeof(std::uint32_t)};
  std::uint32_t all = 0;
  if (array.written) {
    for (std::int64_t i = 0; i < count; ++i) words[i] ^= static_cast<std::uint32_t>(mask);
  } else {
    for (std::int64_t i = 0; i < count; ++i) all |= words[i];
  }
  return all;
}

SHARDMIX_MULTIVERSIONED std::uint64_t stream_blocks(const StreamTask& task, std::int64_t begin,
                                                    std::int64_t end, std::uint64_t mask) {
  std::uint64_t all = 0;
  if (task.by_block) {
    for (std::int64_t block = begin; block < end; ++block) {
      for (const StreamArray& a : task.arrays)
        all |= pass_over(a, block * a.bytes_per_block, a.bytes_per_block, mask);
    }
  } else {
    for (const StreamArray& a : task.arrays)
      all |= pass_over(a, begin * a.bytes_per_block, (end - begin) * a.bytes_per_block, mask);
  }
  return all;
}

class HostDevice final : public Device {
 public:
  explicit HostDevice(int threads) : threads_(threads) {}

  void* allocate(std::size_t bytes, MemoryKind /*kind*/) override {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw DeviceError(fmt::format("the host has no {} bytes of memory to give: {}", bytes,
                                    std::strerror(errno)));
    }
    madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: fewer TLB misses where the system grants it
    return memory;
  }

  void release(void* memory, std::size_t bytes, MemoryKind /*kind*/) noexcept override {
    munmap(memory, bytes);
  }

  void discard(std::byte* memory, std::size_t bytes) override {
    discard_pages(memory, bytes, MADV_DONTNEED);
  }

  void reduce(const ReduceTask& task) override {
    share(task.elements, [&](std::int64_t begin, std::int64_t end) {
      SquareSum own;
      reduce_blocks(task, begin, end, own);
      if (task.squares == nullptr) return;
      const auto add = [](std::int64_t& to, std::int64_t value) {
        std::atomic_ref(to).fetch_add(value, std::memory_order_relaxed);
      };
      for (int d = 0; d < math::ExactSum::digits; ++d) add(task.squares->digits[d], own.digits[d]);
      add(task.squares->unusable, own.unusable);
    });
  }

  void add_sums(const SquareSum* sums, std::int64_t count, SquareSum* total) override {
    SquareSum all;
    for (std::int64_t i = 0; i < count; ++i) {
      for (int d = 0; d < math::ExactSum::digits; ++d) all.digits[d] += sums[i].digits[d];
      all.unusable += sums[i].unusable;
    }
    *total = all;
  }

  void decide(const DecideTask& task) override { *task.copy = *task.control = decision(task); }

  void zero(void* memory, std::size_t bytes) override {
    if (bytes > 0) std::memset(memory, 0, bytes);
  }
  void queue_copy(void* to, const void* from, std::size_t bytes) override { copy(to, from, bytes); }
  bool is_idle() override { return true; }
  bool is_decided() override { return true; }
  void synchronize() override {}
  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void clear(void* memory, std::size_t bytes) override { zero(memory, bytes); }
  bool is_host() const noexcept override { return true; }

  void update(const UpdateTask& task) override {
    const UpdateControl control = *task.control;
    if (control.skip != 0) return;
    share(task.elements, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t run_begin = 0;
      for (const UpdateRun& run : task.runs) {
        const std::int64_t from = std::max(begin, run_begin);
        const std::int64_t to = std::min(end, run.end);
        run_begin = run.end;
        if (from >= to) continue;
        std::visit(
            [&]<class Kernel>(const Kernel& kernel) {
              const auto update = task.arrays.state == StateStorage::full
                                      ? &update_blocks<StateStorage::full, Kernel>
                                      : &update_blocks<StateStorage::compact, Kernel>;
              update(kernel, control.gradient_scale, task.arrays, from, to);
            },
            run.kernel);
      }
    });
  }

  void stream(const StreamTask& task) override {
    const std::uint64_t mask = no_change_;
    share(task.blocks * block_elements, [&](std::int64_t begin, std::int64_t end) {
      sink_ = stream_blocks(task, begin / block_elements, end / block_elements, mask);
    });
  }

  std::unique_ptr<Device> beside() const override { return host_device(1); }
  std::string description() const override {
    return fmt::format("host, {} thread{}", threads_, threads_ == 1 ? "" : "s");
  }

 private:
  /// Hands [0, elements) to the threads in pieces of whole blocks: a thread whose core is slow, or
  /// shared, takes fewer. The work per element does not depend on the pieces.
  template <class Work>
  void share(std::int64_t elements, const Work& work) const {
    constexpr std::int64_t least_blocks = 64;
    constexpr std::int64_t pieces_of_a_thread = 16;
    const std::int64_t blocks = elements / block_elements;
    const std::int64_t piece = std::max(least_blocks, blocks / (threads_ * pieces_of_a_thread));
    const int threads =
        static_cast<int>(std::min<std::int64_t>(threads_, (blocks + piece - 1) / piece));
    if (threads <= 1) {
      if (blocks > 0) work(std::int64_t{0}, blocks * block_elements);
      return;
    }
    std::atomic<std::int64_t> next = 0;
#pragma omp parallel num_threads(threads)
    for (std::int64_t begin = next.fetch_add(piece); begin < blocks;
         begin = next.fetch_add(piece)) {
      work(begin * block_elements, std::min(begin + piece, blocks) * block_elements);
    }
  }

  int threads_;
  volatile std::uint64_t no_change_ = 0;
  std::atomic<std::uint64_t> sink_;
};

}  // namespace

std::unique_ptr<Device> host_device(int threads) {
  return std::make_unique<HostDevice>(threads);
}

}  // namespace shardmix::device
