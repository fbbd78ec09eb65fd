#include <cstring>

#include "comm/cuda_calls.hpp"
#include "comm/device_share.hpp"

namespace shardmix::comm {
namespace {

template <class Handle>
std::string text_of(const Handle& handle) {
  return {reinterpret_cast<const char*>(&handle), sizeof handle};
}

template <class Handle>
Handle handle_of(const char* text) {
  Handle handle{};
  std::memcpy(&handle, text, sizeof handle);
  return handle;
}

class CudaShare final : public DeviceShare {
 public:
  CudaShare() {
    for (std::size_t m = 0; m < mark_count * remembered_marks; ++m)
      own_.emplace_back(cudaEventDisableTiming | cudaEventInterprocess);
  }

  std::string export_memory(std::byte* memory) override {
    cudaIpcMemHandle_t handle{};
    check(cudaIpcGetMemHandle(&handle, memory), "cudaIpcGetMemHandle");
    return text_of(handle);
  }

  std::byte* open_memory(const std::string& name) override {
    void* memory = nullptr;
    check(cudaIpcOpenMemHandle(&memory, handle_of<cudaIpcMemHandle_t>(name.data()),
                               cudaIpcMemLazyEnablePeerAccess),
          "cudaIpcOpenMemHandle");
    return static_cast<std::byte*>(memory);
  }

  void close_memory(std::byte* memory) noexcept override { cudaIpcCloseMemHandle(memory); }

  std::string export_marks() override {
    std::string names;
    for (const CudaEvent& mark : own_) {
      cudaIpcEventHandle_t handle{};
      check(cudaIpcGetEventHandle(&handle, mark.get()), "cudaIpcGetEventHandle");
      names += text_of(handle);
    }
    return names;
  }

  void open_marks(const std::string& name) override {
    std::vector<CudaEvent> marks;
    for (std::size_t m = 0; m < own_.size(); ++m) {
      marks.push_back(CudaEvent::open(
          handle_of<cudaIpcEventHandle_t>(name.data() + m * sizeof(cudaIpcEventHandle_t))));
    }
    peers_.push_back(std::move(marks));
  }

  void set(Mark mark, std::int64_t number, void* queue) noexcept override {
    (void)cudaEventRecord(own_[place_of(mark, number)].get(), static_cast<cudaStream_t>(queue));
  }

  void wait_for(Mark mark, std::int64_t number, void* queue) override {
    for (const auto& peer : peers_)
      peer[place_of(mark, number)].hold(static_cast<cudaStream_t>(queue));
  }

 private:
  static std::size_t place_of(Mark mark, std::int64_t number) {
    return static_cast<std::size_t>(static_cast<std::int64_t>(mark) * remembered_marks +
                                    number % remembered_marks);
  }

  std::vector<CudaEvent> own_;
  std::vector<std::vector<CudaEvent>> peers_;
};

}  // namespace

std::unique_ptr<DeviceShare> share_device() {
  return std::make_unique<CudaShare>();
}

}  // namespace shardmix::comm
