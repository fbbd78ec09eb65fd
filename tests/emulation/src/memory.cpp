// Allocations: of devices, pinned, managed.

#include "memory.hpp"

#include "arena.hpp"
#include "counting.hpp"
#include "errors.hpp"
#include "faults.hpp"
#include "graphs.hpp"
#include "streams.hpp"

namespace emulation {

cudaError_t allocate(Kind kind, void** memory, std::size_t bytes, bool begins_page) {
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  watch_for_faults();
  const int device = current_device();
  if (kind == Kind::device && !take_memory(device, static_cast<std::int64_t>(bytes)))
    return noted(cudaErrorMemoryAllocation);
  Allocation* made = new_allocation(kind, bytes, device, begins_page);
  if (made == nullptr) return noted(cudaErrorMemoryAllocation);
  made->is_exportable = kind == Kind::device && !begins_page;
  map_pages(*made);
  run_in_device([made] { map_pages(*made); });
  *memory = reinterpret_cast<void*>(made->begin);
  return cudaSuccess;
}

/// The allocation that begins at `memory` and is of one of the kinds that `call` frees.
cudaError_t owned(const void* memory, const char* call, Kind kind, Kind other,
                  Allocation*& allocation) {
  allocation = find(memory);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  if (allocation == nullptr || allocation->begin != address ||
      (allocation->kind != kind && allocation->kind != other)) {
    return misuse(cudaErrorInvalidValue, "{} was given {:#x}, which it can't free: {}", call,
                  address, describe(address));
  }
  if (const int importers = importers_of(*allocation); importers > 0) {
    return misuse(cudaErrorInvalidValue, "{}: {} is still open in {} other processes", call,
                  describe(*allocation), importers);
  }
  return cudaSuccess;
}

cudaError_t release(void* memory, const char* call, Kind kind, Kind other) {
  EMULATION_TRY(enter(call));
  if (memory == nullptr) return cudaSuccess;
  EMULATION_TRY(refuse_during_capture());
  Allocation* held = nullptr;
  EMULATION_TRY(owned(memory, call, kind, other, held));
  wait_for_device(held->device);
  forget(*held);
  run_in_device([held] { unmap_pages(*held); });
  unmap_pages(*held);
  if (held->kind == Kind::device) give_memory(held->device, static_cast<std::int64_t>(held->bytes));
  return cudaSuccess;
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  EMULATION_TRY(enter("cudaMalloc"));
  EMULATION_TRY(refuse_during_capture());
  return allocate(Kind::device, memory, bytes, false);
}

/// Waits for the device first, as CUDA does.
cudaError_t cudaFree(void* memory) {
  return release(memory, "cudaFree", Kind::device, Kind::managed);
}

/// The memory is there when the stream comes to it, and not before.
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t handle) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_uncaptured(handle, "cudaMallocAsync", stream));
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (!take_memory(stream->device, static_cast<std::int64_t>(bytes)))
    return noted(cudaErrorMemoryAllocation);
  Allocation* made = new_allocation(Kind::device, bytes, stream->device, false);
  if (made == nullptr) return noted(cudaErrorMemoryAllocation);
  *memory = reinterpret_cast<void*>(made->begin);
  return submit(*stream, [made] { map_pages(*made); });
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t handle) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_uncaptured(handle, "cudaFreeAsync", stream));
  if (memory == nullptr) return cudaSuccess;
  Allocation* held = nullptr;
  EMULATION_TRY(owned(memory, "cudaFreeAsync", Kind::device, Kind::device, held));
  forget(*held);
  give_memory(held->device, static_cast<std::int64_t>(held->bytes));
  return submit(*stream, [held] { unmap_pages(*held); });
}

cudaError_t cudaMallocManaged(void** memory, std::size_t bytes, unsigned /*flags*/) {
  EMULATION_TRY(enter("cudaMallocManaged"));
  EMULATION_TRY(refuse_during_capture());
  return allocate(Kind::managed, memory, bytes, true);
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned flags) {
  EMULATION_TRY(enter("cudaHostAlloc"));
  EMULATION_TRY(refuse_during_capture());
  if (flags > (cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined))
    return misuse(cudaErrorInvalidValue, "cudaHostAlloc: unknown flags {}", flags);
  return allocate(Kind::pinned, memory, bytes, true);
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* memory) {
  return release(memory, "cudaFreeHost", Kind::pinned, Kind::pinned);
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned /*flags*/) {
  EMULATION_TRY(enter("cudaHostGetDevicePointer"));
  const Allocation* held = find(host);
  if (held == nullptr || held->kind != Kind::pinned)
    return misuse(cudaErrorInvalidValue, "cudaHostGetDevicePointer: {} is no pinned memory", host);
  *device = host;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  EMULATION_TRY(enter("cudaPointerGetAttributes"));
  *attributes = {};
  attributes->device = -2;
  const Allocation* held = find(pointer);
  void* address = const_cast<void*>(pointer);
  if (held == nullptr) {
    attributes->hostPointer = address;
    return cudaSuccess;
  }
  attributes->device = held->device;
  attributes->devicePointer = address;
  attributes->type = held->kind == Kind::pinned    ? cudaMemoryTypeHost
                     : held->kind == Kind::managed ? cudaMemoryTypeManaged
                                                   : cudaMemoryTypeDevice;
  if (attributes->type != cudaMemoryTypeDevice) attributes->hostPointer = address;
  return cudaSuccess;
}

}  // extern "C"
