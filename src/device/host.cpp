#include <omp.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "device/kernels.hpp"
#include "shardmix/error.hpp"

// One source, three instruction sets, chosen when the program starts. Sanitizers run before the
// choice could.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define SHARDMIX_MULTIVERSIONED \
  [[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]]
#else
#define SHARDMIX_MULTIVERSIONED
#endif

namespace shardmix::device {
namespace {

using math::block_columns;
using math::block_elements;
using math::block_rows;

template <class Kernel, class Weights>
SHARDMIX_MULTIVERSIONED void update_range(const Kernel& kernel, const Weights& weights, float scale,
                                          const float* gradient, const StatePointers& state,
                                          std::int64_t begin, std::int64_t end) {
  const Kernel scalars = kernel;  // copies that no store below can alias
  const Weights storage = weights;
  const StatePointers arrays = state;
#pragma GCC ivdep
  for (std::int64_t i = begin; i < end; ++i)
    update_element(scalars, storage, scale, gradient, arrays, i);
}

/// total = the sum over the sources' blocks at `begin`, as a binary tree.
template <class T>
void sum_tree(const void* const* sources, int count, std::int64_t begin, float* total) {
  if (count == 1) {
    const T* source = static_cast<const T*>(sources[0]) + begin;
    for (std::int64_t i = 0; i < block_elements; ++i) total[i] = to_float(source[i]);
    return;
  }
  const int left = left_terms(count);
  alignas(64) float right[block_elements];
  sum_tree<T>(sources, left, begin, total);
  sum_tree<T>(sources + left, count - left, begin, right);
  for (std::int64_t i = 0; i < block_elements; ++i) total[i] += right[i];
}

/// The sum of squares of a block: rows first, then columns, each as a binary tree. Squares of
/// floats are exact in double.
double sum_of_squares(const float* block) {
  alignas(64) double columns[block_columns];
  for (std::int64_t c = 0; c < block_columns; ++c) {
    columns[c] = math::tree_sum<block_rows>([&](int row) {
      const double x = block[row * block_columns + c];
      return x * x;
    });
  }
  return math::tree_sum<block_columns>([&](int c) { return columns[c]; });
}

template <class T>
SHARDMIX_MULTIVERSIONED void reduce_blocks(const ReduceTask& task, std::int64_t begin,
                                           std::int64_t end) {
  for (std::int64_t block = begin; block < end; block += block_elements) {
    alignas(64) float total[block_elements];
    sum_tree<T>(task.sources.data(), static_cast<int>(task.sources.size()), block, total);
    for (auto partial = task.partials.rbegin(); partial != task.partials.rend(); ++partial) {
      const float* left = *partial + block;
      for (std::int64_t i = 0; i < block_elements; ++i) total[i] = left[i] + total[i];
    }
    float* sum = task.sum + block;
    bool usable = true;
    for (std::int64_t i = 0; i < block_elements; ++i) {
      sum[i] = total[i];
      usable &= math::is_usable(sum[i]);
    }
    task.block_squares[block / block_elements] =
        usable ? sum_of_squares(sum) : std::numeric_limits<double>::infinity();
  }
}

class HostDevice final : public Device {
 public:
  explicit HostDevice(int threads) : threads_(threads) {}

  void* allocate(std::size_t bytes) override {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw DeviceError(fmt::format("the host has no {} bytes of memory to give: {}", bytes,
                                    std::strerror(errno)));
    }
    madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: fewer TLB misses where the system grants it
    return memory;
  }

  void release(void* memory, std::size_t bytes) noexcept override { munmap(memory, bytes); }

  void reduce(const ReduceTask& task) override {
    share(task.elements, [&](std::int64_t begin, std::int64_t end) {
      if (task.dtype == DType::fp32) {
        reduce_blocks<float>(task, begin, end);
      } else {
        reduce_blocks<std::uint16_t>(task, begin, end);
      }
    });
  }

  void update(const UpdateTask& task) override {
    const StatePointers state{task.m1, task.m2, task.v};
    dispatch(task, [&](const auto& kernel, const auto& weights) {
      share(task.elements, [&](std::int64_t begin, std::int64_t end) {
        update_range(kernel, weights, task.gradient_scale, task.gradient, state, begin, end);
      });
    });
  }

  std::string description() const override {
    return fmt::format("host, {} thread{}", threads_, threads_ == 1 ? "" : "s");
  }

 private:
  /// Splits [0, elements) at blocks over the threads. The work per element does not depend on the
  /// split.
  template <class Work>
  void share(std::int64_t elements, const Work& work) const {
    const std::int64_t blocks = elements / block_elements;
    const int threads = static_cast<int>(std::min<std::int64_t>(threads_, blocks));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const int t = omp_get_thread_num();
      const int n = omp_get_num_threads();
      const std::int64_t begin = blocks * t / n * block_elements;
      const std::int64_t end = blocks * (t + 1) / n * block_elements;
      if (begin < end) work(begin, end);
    }
  }

  int threads_;
};

}  // namespace

std::unique_ptr<Device> host_device(int threads) {
  return std::make_unique<HostDevice>(threads);
}

}  // namespace shardmix::device
