// Copies and fills. What is pinned or of a device is read and written when the stream comes to it;
// pageable memory is staged: read before the call returns, or written before it returns.

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "arena.hpp"
#include "counting.hpp"
#include "errors.hpp"
#include "graphs.hpp"
#include "streams.hpp"

namespace emulation {
namespace {

constexpr std::size_t staged_bytes = 64 << 10;  // of a command
constexpr std::size_t copied_at_once = 256 << 10;

/// One end of a copy.
struct End {
  std::byte* data = nullptr;
  const Allocation* allocation = nullptr;  ///< null: pageable memory of the host

  [[nodiscard]] bool is_pageable() const { return allocation == nullptr; }
  [[nodiscard]] bool is_of_device() const {
    return allocation != nullptr && allocation->kind != Kind::pinned;
  }
  [[nodiscard]] bool is_of_host() const {
    return allocation == nullptr || allocation->kind == Kind::pinned ||
           allocation->kind == Kind::managed;
  }
};

cudaError_t look(const void* memory, std::size_t bytes, const char* call, const char* end_name,
                 End& end) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  end = {static_cast<std::byte*>(const_cast<void*>(memory)), find(memory)};
  if (end.allocation == nullptr) {
    if (!is_in_arenas(address) && memory != nullptr) return cudaSuccess;
    return misuse(cudaErrorInvalidValue, "{}: its {} {:#x} is {}", call, end_name, address,
                  memory == nullptr ? "null" : describe(address));
  }
  const std::uint64_t left = end.allocation->begin + end.allocation->bytes - address;
  if (bytes <= left) return cudaSuccess;
  return misuse(cudaErrorInvalidValue,
                "{}: its {} {:#x} has {} bytes left in {}, and {} were to be copied", call,
                end_name, address, left, describe(*end.allocation), bytes);
}

cudaError_t check_direction(const End& to, const End& from, cudaMemcpyKind kind, const char* call) {
  const bool from_host = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost;
  const bool to_host = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
    return misuse(cudaErrorInvalidMemcpyDirection, "{}: there is no direction {}", call,
                  static_cast<int>(kind));
  if (kind == cudaMemcpyDefault) return cudaSuccess;
  if (from_host ? !from.is_of_host() : !from.is_of_device())
    return misuse(cudaErrorInvalidValue, "{}: its source isn't memory of the {}", call,
                  from_host ? "host" : "device");
  if (to_host ? !to.is_of_host() : !to.is_of_device())
    return misuse(cudaErrorInvalidValue, "{}: its destination isn't memory of the {}", call,
                  to_host ? "host" : "device");
  return cudaSuccess;
}

/// Device process.
void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes; done += copied_at_once) {
    if (done != 0) delay();
    std::memcpy(to + done, from + done, std::min(copied_at_once, bytes - done));
  }
}

/// Device process. Whole pages of zeros take no memory.
void fill_bytes(std::byte* memory, int value, std::size_t bytes) {
  constexpr std::size_t page = 4096;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t last = (begin + bytes) / page * page;
  if (value == 0 && bytes >= std::size_t{1} << 20) {
    std::memset(memory, 0, first - begin);
    madvise(reinterpret_cast<void*>(first), last - first, MADV_REMOVE);
    std::memset(reinterpret_cast<void*>(last), 0, begin + bytes - last);
  } else {
    std::memset(memory, value, bytes);
  }
}

/// The bytes follow.
struct Staged {
  std::byte* to;
  std::size_t bytes;
};

cudaError_t copy_from_pageable(Stream& stream, const End& to, const End& from, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes; done += staged_bytes) {
    const Staged staged{to.data + done, std::min(staged_bytes, bytes - done)};
    Command made;
    made.run = [](std::byte* payload) {
      const auto& own = *reinterpret_cast<const Staged*>(payload);
      std::memcpy(own.to, payload + sizeof(Staged), own.bytes);
    };
    made.is_delayed = done == 0;
    made.payload.resize(sizeof(Staged) + staged.bytes);
    std::memcpy(made.payload.data(), &staged, sizeof(Staged));
    std::memcpy(made.payload.data() + sizeof(Staged), from.data + done, staged.bytes);
    EMULATION_TRY(submit(stream, made));
  }
  return cudaSuccess;
}

cudaError_t copy_to_pageable(Stream& stream, const End& to, const End& from, std::size_t bytes) {
  static std::mutex landing_mutex;
  const std::lock_guard lock(landing_mutex);
  for (std::size_t done = 0; done < bytes; done += landing_bytes) {
    const std::size_t part = std::min(landing_bytes, bytes - done);
    EMULATION_TRY(submit(stream, [source = from.data + done, part] {
      std::memcpy(segment().landing, source, part);
    }));
    wait_for(stream);
    std::memcpy(to.data + done, segment().landing, part);
  }
  return cudaSuccess;
}

cudaError_t copy(void* to_memory, const void* from_memory, std::size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t handle, const char* call, bool is_synchronous) {
  Stream* stream = nullptr;
  EMULATION_TRY(is_synchronous ? open_uncaptured(handle, call, stream)
                               : open_stream(handle, call, stream));
  if (bytes == 0) return cudaSuccess;
  End to;
  End from;
  EMULATION_TRY(look(to_memory, bytes, call, "destination", to));
  EMULATION_TRY(look(from_memory, bytes, call, "source", from));
  EMULATION_TRY(check_direction(to, from, kind, call));
  count(&Counts::copies);
  count(&Counts::copied_bytes, static_cast<std::int64_t>(bytes));
  const bool both_on_device = to.is_of_device() && from.is_of_device();
  if (is_synchronous && !both_on_device) count(&Counts::host_waits);
  if (to.is_pageable() || from.is_pageable()) {
    if (stream->capture != nullptr) {
      invalidate(*stream->capture);
      return noted(cudaErrorStreamCaptureUnsupported);
    }
    if (to.is_pageable() && from.is_pageable()) {
      wait_for(*stream);
      std::memcpy(to.data, from.data, bytes);
      return cudaSuccess;
    }
    return to.is_pageable() ? copy_to_pageable(*stream, to, from, bytes)
                            : copy_from_pageable(*stream, to, from, bytes);
  }
  EMULATION_TRY(submit(*stream, [a = to.data, b = from.data, bytes] { copy_bytes(a, b, bytes); }));
  // Between memory of devices CUDA doesn't wait either.
  if (is_synchronous && !both_on_device) wait_for(*stream);
  return cudaSuccess;
}

cudaError_t set(void* memory, int value, std::size_t bytes, cudaStream_t handle, const char* call) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, call, stream));
  if (bytes == 0) return cudaSuccess;
  End to;
  EMULATION_TRY(look(memory, bytes, call, "destination", to));
  if (to.is_pageable())
    return misuse(cudaErrorInvalidValue, "{}: {} is pageable memory of the host", call, memory);
  count(&Counts::memsets);
  return submit(*stream, [data = to.data, value, bytes] { fill_bytes(data, value, bytes); });
}

}  // namespace
}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return copy(to, from, bytes, kind, nullptr, "cudaMemcpy", true);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy(to, from, bytes, kind, stream, "cudaMemcpyAsync", false);
}

/// Doesn't wait, as CUDA's doesn't.
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  return set(memory, value, bytes, nullptr, "cudaMemset");
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  return set(memory, value, bytes, stream, "cudaMemsetAsync");
}

}  // extern "C"
