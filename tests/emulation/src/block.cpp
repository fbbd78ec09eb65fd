#include "block.hpp"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <numeric>

#include "errors.hpp"
#include "faults.hpp"
#include "process.hpp"
#include "queue.hpp"
#include "symbols.hpp"

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;

namespace emulation {
namespace {

std::string text(const uint3& v) {
  return fmt::format("({}, {}, {})", v.x, v.y, v.z);
}

}  // namespace

Block& Block::current() {
  thread_local Block block;
  return block;
}

void Block::reset(const dim3& size) {
  count_ = std::size_t{size.x} * size.y * size.z;
  if (threads_.size() < count_) threads_.resize(count_);
  left_ = count_;
  waiting_ = 0;
  std::size_t number = 0;
  for (unsigned z = 0; z < size.z; ++z) {
    for (unsigned y = 0; y < size.y; ++y) {
      for (unsigned x = 0; x < size.x; ++x) {
        Thread& thread = threads_[number++];
        thread.state = State::ready;
        thread.is_paused = false;
        thread.index = {x, y, z};
      }
    }
  }
  // Warps in any order; lanes from either end.
  const std::size_t warps = (count_ + 31) / 32;
  std::vector<std::size_t> warp_order(warps);
  std::iota(warp_order.begin(), warp_order.end(), std::size_t{0});
  for (std::size_t i = warps; i > 1; --i)
    std::swap(warp_order[i - 1], warp_order[random_bits() % i]);
  order_.clear();
  for (const std::size_t warp : warp_order) {
    const std::size_t begin = warp * 32;
    const std::size_t lanes = std::min<std::size_t>(32, count_ - begin);
    const bool is_backwards = random_bits() % 2 != 0;
    for (std::size_t i = 0; i < lanes; ++i)
      order_.push_back(begin + (is_backwards ? lanes - 1 - i : i));
  }
}

void Block::run(const Kernel& kernel, const uint3& index, const dim3& size) {
  kernel_ = &kernel;
  blockIdx = index;
  blockDim = size;
  reset(size);
  while (left_ > 0) {
    bool moved = false;
    bool all_paused = true;
    sleep_ = 0;
    for (const std::size_t number : order_) {
      if (threads_[number].state != State::ready) continue;
      resume(number);
      moved = true;
      all_paused = all_paused && threads_[number].is_paused;
      threads_[number].is_paused = false;
    }
    if (!moved) report_stuck();
    if (all_paused && left_ > 0) {
      const timespec time{0, static_cast<long>(std::clamp(sleep_, 1000u, 1'000'000u))};
      nanosleep(&time, nullptr);
      check_other_process();
    }
  }
  kernel_ = nullptr;
}

void Block::resume(std::size_t number) {
  Thread& thread = threads_[number];
  current_ = number;
  threadIdx = thread.index;
  if (!thread.stack) {
    if (stacks_.empty()) stacks_.push_back(std::make_unique<Stack>());
    thread.stack = std::move(stacks_.back());
    stacks_.pop_back();
    thread.context = thread.stack->begin(thread_main);
  }
  void* fake = nullptr;
  announce_switch(&fake, thread.stack->bottom(), Stack::bytes);
  emulation_switch(&scheduler_, &thread.context);
  confirm_switch(fake, nullptr, nullptr);
  if (thread.state == State::done) stacks_.push_back(std::move(thread.stack));
}

/// Back to run(), until this thread is resumed.
void Block::leave() {
  Thread& thread = threads_[current_];
  void* fake = nullptr;
  announce_switch(thread.state == State::done ? nullptr : &fake, system_stack_,
                  system_stack_bytes_);
  emulation_switch(&thread.context, &scheduler_);
  confirm_switch(fake, nullptr, nullptr);
}

void Block::thread_main() {
  Block& block = current();
  confirm_switch(nullptr, &block.system_stack_, &block.system_stack_bytes_);
  block.kernel_->call(block.kernel_->bound);
  block.end_thread();
}

void Block::end_thread() {
  threads_[current_].state = State::done;
  --left_;
  if (waiting_ == left_) open_barrier();
  leave();
}

int Block::wait_at_barrier(int predicate, const Place& place) {
  Thread& thread = threads_[current_];
  if (waiting_ > 0) {
    const auto other = std::find_if(threads_.begin(), threads_.end(),
                                    [](const Thread& t) { return t.state == State::at_barrier; });
    if (other->place.line != place.line || std::string_view(other->place.file) != place.file) {
      fatal("{} came to {} ({}:{}), while others wait at {} ({}:{})", running(), place.function,
            place.file, place.line, other->place.function, other->place.file, other->place.line);
    }
  }
  thread.state = State::at_barrier;
  thread.place = place;
  thread.predicate = predicate != 0 ? 1 : 0;
  if (++waiting_ == left_) {
    open_barrier();
  } else {
    leave();
  }
  return static_cast<int>(thread.result);
}

void Block::open_barrier() {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count_; ++i) {
    if (threads_[i].state == State::at_barrier)
      sum += static_cast<std::uint64_t>(threads_[i].predicate);
  }
  for (std::size_t i = 0; i < count_; ++i) {
    if (threads_[i].state != State::at_barrier) continue;
    threads_[i].state = State::ready;
    threads_[i].result = sum;
  }
  waiting_ = 0;
}

void Block::pause(unsigned nanoseconds) {
  threads_[current_].is_paused = true;
  sleep_ = std::max(sleep_, nanoseconds);
  leave();
}

std::string Block::name(std::size_t thread) const {
  return fmt::format("thread {} of block {}", text(threads_[thread].index), text(blockIdx));
}

std::string Block::running() const {
  if (kernel_ == nullptr) return "a command of a stream";
  return fmt::format("kernel {}, {}", name_of_function(kernel_->function), name(current_));
}

void Block::report_stuck() const {
  std::string where;
  const Place* last = nullptr;
  for (std::size_t i = 0; i < count_; ++i) {
    const Thread& t = threads_[i];
    if (t.state == State::done) continue;
    const Place& place = t.state == State::at_barrier ? t.place : t.offer.place;
    if (last != nullptr && last->line == place.line && last->function == place.function) continue;
    last = &place;
    where += fmt::format("{}thread {} and on at {} ({}:{})", where.empty() ? "" : ", ",
                         text(t.index), place.function, place.file, place.line);
  }
  fatal("kernel {}, block {}: its threads wait for each other for ever: {}",
        name_of_function(kernel_->function), text(blockIdx), where);
}

std::string running_thread() {
  return Block::current().running();
}

void barrier(const Place& place) {
  (void)Block::current().wait_at_barrier(0, place);
}
int barrier_count(int predicate, const Place& place) {
  return Block::current().wait_at_barrier(predicate, place);
}
void pause_thread(unsigned nanoseconds) {
  Block::current().pause(nanoseconds);
}
void kernel_trap() {
  fatal("{} called __trap()", running_thread());
}

long long device_clock() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<long long>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace emulation
