// Memory and events of other processes. A handle names the exporter's process and its entry there;
// the importer's device process maps the same pages, and its host has no access to them.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "arena.hpp"
#include "errors.hpp"
#include "events.hpp"
#include "graphs.hpp"
#include "shared_files.hpp"
#include "streams.hpp"

namespace emulation {
namespace {

constexpr std::uint32_t memory_magic = 0x4D454D31;
constexpr std::uint32_t event_magic = 0x45564531;

struct MemoryHandle {
  std::uint32_t magic;
  std::int32_t host;
  std::int64_t number;  ///< of the allocation
  std::int32_t descriptor;
  std::uint64_t offset;
};

struct EventHandle {
  std::uint32_t magic;
  std::int32_t host;
  std::int32_t slot;
  std::uint64_t before;
};

template <class Handle, class Reserved>
Handle read(const Reserved& reserved) {
  static_assert(sizeof(Handle) <= sizeof(reserved.reserved));
  Handle handle;
  std::memcpy(&handle, reserved.reserved, sizeof handle);
  return handle;
}

template <class Reserved, class Handle>
Reserved written(const Handle& handle) {
  Reserved reserved{};
  std::memcpy(reserved.reserved, &handle, sizeof handle);
  return reserved;
}

struct Import {
  Allocation* own = nullptr;
  Allocation* exported = nullptr;
  int openings = 0;
};

std::mutex mutex;

using Key = std::pair<std::int32_t, std::int64_t>;
std::map<Key, Import>& imports() {
  static auto& all = *new std::map<Key, Import>;
  return all;
}

bool is_gone(std::int32_t process) {
  return kill(process, 0) != 0;
}

/// Puts this process among those that have the allocation open.
void sign_in(Allocation& exported) {
  for (std::atomic<std::int32_t>& importer : exported.importers) {
    std::int32_t other = importer;
    if ((other == 0 || is_gone(other)) && importer.compare_exchange_strong(other, getpid())) return;
  }
  fatal("{} is open in {} processes; no more fit", describe(exported), most_importers);
}

void sign_out(Allocation& exported) {
  for (std::atomic<std::int32_t>& importer : exported.importers) {
    if (importer == getpid()) importer = 0;
  }
}

cudaError_t import(const MemoryHandle& handle, Segment& exporter, Import& made) {
  Allocation& exported = exporter.table[handle.number - 1];
  if (!exported.is_live) {
    return misuse(cudaErrorInvalidValue,
                  "cudaIpcOpenMemHandle: process {} has freed its allocation {}", handle.host,
                  handle.number);
  }
  Allocation* own =
      new_allocation(Kind::imported, exported.bytes, current_device(), handle.offset % 4096 == 0);
  if (own == nullptr) return noted(cudaErrorMapBufferObjectFailed);
  const FilePath path = file_path(handle.host, handle.descriptor);
  run_in_device([own, path, offset = handle.offset] {
    const int file = open(path.text, O_RDWR | O_CLOEXEC);
    segment().reply = file >= 0 && map_import(*own, file, offset);
    if (file >= 0) close(file);
  });
  if (segment().reply == 0) {
    forget(*own);
    return noted(cudaErrorMapBufferObjectFailed);
  }
  sign_in(exported);
  made = {own, &exported, 0};
  return cudaSuccess;
}

}  // namespace

int importers_of(const Allocation& exported) {
  return static_cast<int>(std::ranges::count_if(exported.importers, [](const auto& importer) {
    return importer != 0 && !is_gone(importer);
  }));
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* memory) {
  EMULATION_TRY(enter("cudaIpcGetMemHandle"));
  const Allocation* held = find(memory);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  if (held == nullptr || held->begin != address || !held->is_exportable) {
    return misuse(cudaErrorInvalidValue,
                  "cudaIpcGetMemHandle: {:#x} doesn't begin memory of cudaMalloc: {}", address,
                  describe(address));
  }
  const FileRange range = file_range(*held);
  *handle = written<cudaIpcMemHandle_t>(
      MemoryHandle{memory_magic, segment().host, held->number, range.descriptor, range.offset});
  return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void** memory, cudaIpcMemHandle_t reserved, unsigned flags) {
  EMULATION_TRY(enter("cudaIpcOpenMemHandle"));
  EMULATION_TRY(refuse_during_capture());
  *memory = nullptr;
  const auto handle = read<MemoryHandle>(reserved);
  if (handle.magic != memory_magic || flags != cudaIpcMemLazyEnablePeerAccess) {
    return misuse(cudaErrorInvalidValue,
                  "cudaIpcOpenMemHandle: no handle of cudaIpcGetMemHandle, or flags {}, which must "
                  "be cudaIpcMemLazyEnablePeerAccess",
                  flags);
  }
  if (handle.host == segment().host) {
    return misuse(cudaErrorDeviceUninitialized,
                  "cudaIpcOpenMemHandle was given a handle of this process's own memory");
  }
  Segment* exporter = segment_of(handle.host);
  if (exporter == nullptr) return noted(cudaErrorMapBufferObjectFailed);
  const std::lock_guard lock(mutex);
  Import& made = imports()[{handle.host, handle.number}];
  if (made.own == nullptr) EMULATION_TRY(import(handle, *exporter, made));
  ++made.openings;
  *memory = reinterpret_cast<void*>(made.own->begin);
  return cudaSuccess;
}

/// Waits for the device first, as CUDA does.
cudaError_t cudaIpcCloseMemHandle(void* memory) {
  EMULATION_TRY(enter("cudaIpcCloseMemHandle"));
  const std::lock_guard lock(mutex);
  const auto found = std::ranges::find_if(imports(), [&](const auto& import) {
    return import.second.own != nullptr &&
           import.second.own->begin == reinterpret_cast<std::uintptr_t>(memory);
  });
  if (found == imports().end()) {
    return misuse(cudaErrorInvalidValue, "cudaIpcCloseMemHandle: {} isn't open memory of a peer",
                  memory);
  }
  Import& held = found->second;
  if (--held.openings > 0) return cudaSuccess;
  wait_for_device(held.own->device);
  forget(*held.own);
  run_in_device([own = held.own] { unmap_pages(*own); });
  sign_out(*held.exported);
  imports().erase(found);
  return cudaSuccess;
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event_handle) {
  Event* event = nullptr;
  EMULATION_TRY(open_event(event_handle, "cudaIpcGetEventHandle", event));
  if ((event->flags & cudaEventInterprocess) == 0 || event->is_imported) {
    return misuse(cudaErrorInvalidResourceHandle,
                  "cudaIpcGetEventHandle: the event was made without cudaEventInterprocess, or is "
                  "another process's");
  }
  *handle = written<cudaIpcEventHandle_t>(
      EventHandle{event_magic, segment().host, event->slot, event->before});
  return cudaSuccess;
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t reserved) {
  EMULATION_TRY(enter("cudaIpcOpenEventHandle"));
  const auto handle = read<EventHandle>(reserved);
  if (handle.magic != event_magic || handle.host == segment().host) {
    return misuse(cudaErrorInvalidResourceHandle,
                  "cudaIpcOpenEventHandle: no handle of another process's event");
  }
  Segment* exporter = segment_of(handle.host);
  if (exporter == nullptr) return noted(cudaErrorMapBufferObjectFailed);
  *event = new_event(exporter, handle.slot, cudaEventDisableTiming | cudaEventInterprocess);
  (*event)->before = handle.before;
  return cudaSuccess;
}

}  // extern "C"
