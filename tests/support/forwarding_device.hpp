#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "device/device.hpp"

namespace shardmix::testing {

/// A device that does all that another does: for those that do a part of it in another way.
class ForwardingDevice : public device::Device {
 public:
  explicit ForwardingDevice(std::unique_ptr<Device> inner) : inner_(std::move(inner)) {}

  void* allocate(std::size_t bytes, device::MemoryKind kind) override {
    return inner_->allocate(bytes, kind);
  }
  void release(void* memory, std::size_t bytes, device::MemoryKind kind) noexcept override {
    inner_->release(memory, bytes, kind);
  }
  void discard(std::byte* memory, std::size_t bytes) override { inner_->discard(memory, bytes); }
  void reduce(const device::ReduceTask& task) override { inner_->reduce(task); }
  void add_sums(const device::SquareSum* sums, std::int64_t count,
                device::SquareSum* total) override {
    inner_->add_sums(sums, count, total);
  }
  void decide(const device::DecideTask& task) override { inner_->decide(task); }
  void update(const device::UpdateTask& task) override { inner_->update(task); }
  void stream(const device::StreamTask& task) override { inner_->stream(task); }
  void zero(void* memory, std::size_t bytes) override { inner_->zero(memory, bytes); }
  void queue_copy(void* to, const void* from, std::size_t bytes) override {
    inner_->queue_copy(to, from, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    inner_->copy(to, from, bytes);
  }
  void clear(void* memory, std::size_t bytes) override { inner_->clear(memory, bytes); }
  void remember(int place) override { inner_->remember(place); }
  [[nodiscard]] bool is_past(int place) override { return inner_->is_past(place); }
  void synchronize() override { inner_->synchronize(); }
  bool is_idle() override { return inner_->is_idle(); }
  bool is_decided() override { return inner_->is_decided(); }
  [[nodiscard]] std::unique_ptr<Device> beside() const override { return inner_->beside(); }
  [[nodiscard]] bool is_host() const noexcept override { return inner_->is_host(); }
  [[nodiscard]] std::string description() const override { return inner_->description(); }

 private:
  std::unique_ptr<Device> inner_;
};

}  // namespace shardmix::testing
