#include "arena.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "errors.hpp"
#include "process.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulation {
namespace {

constexpr std::uintptr_t first_address = 0x2000'0000'0000;
constexpr std::uintptr_t region_bytes = 0x400'0000'0000;
constexpr int pinned_region = most_devices;
constexpr int managed_region = most_devices + 1;
constexpr int import_region = most_devices + 2;
constexpr int regions = most_devices + 3;
constexpr std::uintptr_t page = 4096;
constexpr std::uintptr_t alignment = 256;
constexpr int poison = 0xFF;  // a nan in every float format
constexpr int canary = 0xA5;
constexpr std::uint64_t most_poisoned = 64 << 20;
constexpr std::uint64_t poisoned_end = 64 << 10;

int files[regions];
std::uintptr_t next_address[regions];
std::mutex mutex;

std::map<std::uintptr_t, Allocation*>& live() {
  static auto& all = *new std::map<std::uintptr_t, Allocation*>;  // used until the very end
  return all;
}

std::uintptr_t round_up(std::uintptr_t value, std::uintptr_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int region_of(const Allocation& a) {
  if (a.kind == Kind::device) return a.device;
  return a.kind == Kind::pinned    ? pinned_region
         : a.kind == Kind::managed ? managed_region
                                   : import_region;
}

std::uintptr_t begin_of(int region) {
  return first_address + static_cast<std::uintptr_t>(region) * region_bytes;
}

struct Pages {
  std::byte* begin;
  std::size_t bytes;
};

Pages pages_of(const Allocation& a) {
  const std::uintptr_t begin = a.begin / page * page;
  return {reinterpret_cast<std::byte*>(begin), round_up(a.begin + a.bytes, page) - begin};
}

std::byte* bytes_of(const Allocation& a) {
  return reinterpret_cast<std::byte*>(a.begin);
}

bool is_mapped_by_host(const Allocation& a) {
  return a.kind == Kind::pinned || a.kind == Kind::managed;
}

void map_file(const Pages& pages, int file, std::uint64_t offset) {
  void* mapped = mmap(pages.begin, pages.bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED)
    fatal("{} bytes of memory couldn't be mapped: {}", pages.bytes, std::strerror(errno));
}

void fill(const Allocation& a) {
  const Pages pages = pages_of(a);
  std::byte* end = bytes_of(a) + a.bytes;
  std::byte* pages_end = pages.begin + pages.bytes;
  if (a.bytes <= most_poisoned) {
    std::memset(bytes_of(a), poison, a.bytes);
  } else {
    std::memset(bytes_of(a), poison, poisoned_end);
    std::memset(end - poisoned_end, poison, poisoned_end);
  }
  std::memset(pages.begin, canary, static_cast<std::size_t>(bytes_of(a) - pages.begin));
  std::memset(end, canary, static_cast<std::size_t>(pages_end - end));
}

/// The first byte of [begin, end) that isn't as fill() left it, or `end`.
std::byte* first_changed(std::byte* begin, std::byte* end) {
  return std::find_if(begin, end, [](std::byte b) { return b != std::byte{canary}; });
}

void poison_for_sanitizer([[maybe_unused]] const Allocation& a) {
#if defined(__SANITIZE_ADDRESS__)
  const Pages pages = pages_of(a);
  ASAN_POISON_MEMORY_REGION(pages.begin, pages.bytes);
  ASAN_UNPOISON_MEMORY_REGION(bytes_of(a), a.bytes);
#endif
}

void unpoison_for_sanitizer([[maybe_unused]] const Allocation& a) {
#if defined(__SANITIZE_ADDRESS__)
  const Pages pages = pages_of(a);
  ASAN_UNPOISON_MEMORY_REGION(pages.begin, pages.bytes);
#endif
}

void look_beside(const Allocation& a) {
  const Pages pages = pages_of(a);
  std::byte* pages_end = pages.begin + pages.bytes;
  const std::byte* before = first_changed(pages.begin, bytes_of(a));
  const std::byte* behind = first_changed(bytes_of(a) + a.bytes, pages_end);
  if (before != bytes_of(a))
    fatal("{} was written {} bytes before its begin", describe(a), bytes_of(a) - before);
  if (behind != pages_end)
    fatal("{} was written {} bytes behind its end", describe(a), behind - bytes_of(a) - a.bytes);
}

}  // namespace

void reserve_arenas() {
  for (int r = 0; r < regions; ++r) {
    files[r] = memfd_create("emulated-gpu", MFD_CLOEXEC);
    if (files[r] < 0 || ftruncate(files[r], region_bytes) != 0)
      fatal("a file for memory couldn't be made: {}", std::strerror(errno));
    next_address[r] = begin_of(r) + page;
  }
  void* wanted = reinterpret_cast<void*>(first_address);
  const void* got = mmap(wanted, regions * region_bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got != wanted)
    fatal("the addresses for memory of GPUs are taken, or refused: {}", std::strerror(errno));
}

Allocation* new_allocation(Kind kind, std::size_t bytes, int device, bool begins_page) {
  const std::lock_guard lock(mutex);
  const int number = segment().allocations.load();
  if (number == most_allocations) fatal("there were {} allocations; no more fit", number);
  Allocation& a = segment().table[number];
  a.bytes = bytes;
  a.number = number + 1;
  a.device = device;
  a.kind = kind;
  const int region = region_of(a);
  const std::uintptr_t pages_begin = next_address[region];
  const std::uintptr_t size = round_up(bytes, page);
  if (pages_begin + size + page > begin_of(region) + region_bytes) return nullptr;
  a.begin = begins_page ? pages_begin : pages_begin + size - round_up(bytes, alignment);
  next_address[region] = pages_begin + size + page;
  segment().allocations.store(number + 1);
  live()[a.begin] = &a;
  a.is_live = true;
  return &a;
}

void map_pages(Allocation& a) {
  if (!in_device_process() && !is_mapped_by_host(a)) return;
  const FileRange range = file_range(a);
  const Pages pages = pages_of(a);
  map_file(pages, range.descriptor, range.offset / page * page);
  poison_for_sanitizer(a);
  if (in_device_process()) {
    unpoison_for_sanitizer(a);
    fill(a);
    poison_for_sanitizer(a);
  }
}

bool map_import(Allocation& a, int descriptor, std::uint64_t offset) {
  struct stat status {};
  if (fstat(descriptor, &status) != 0) return false;
  map_file(pages_of(a), descriptor, offset / page * page);
  poison_for_sanitizer(a);
  return true;
}

void unmap_pages(Allocation& a) {
  if (!in_device_process() && !is_mapped_by_host(a)) return;
  unpoison_for_sanitizer(a);
  if (in_device_process() && a.kind != Kind::imported) look_beside(a);
  const Pages pages = pages_of(a);
  mmap(pages.begin, pages.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
       -1, 0);
  if (in_device_process() && a.kind != Kind::imported) {
    const FileRange range = file_range(a);
    fallocate(range.descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(range.offset / page * page), static_cast<off_t>(pages.bytes));
  }
}

Allocation* find(const void* address) {
  const std::lock_guard lock(mutex);
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const auto behind = live().upper_bound(at);
  if (behind == live().begin()) return nullptr;
  Allocation* a = std::prev(behind)->second;
  return at < a->begin + a->bytes ? a : nullptr;
}

void forget(Allocation& allocation) {
  const std::lock_guard lock(mutex);
  live().erase(allocation.begin);
  allocation.is_live = false;
}

FileRange file_range(const Allocation& a) {
  const int region = region_of(a);
  return {files[region], a.begin - begin_of(region)};
}

bool is_in_arenas(std::uintptr_t address) {
  return address >= first_address && address < first_address + regions * region_bytes;
}

std::string describe(const Allocation& a) {
  constexpr const char* kinds[] = {"device", "pinned memory, of device",
                                   "managed memory, of device", "memory of a peer, on device"};
  return fmt::format("allocation {} ({} bytes of {} {})", a.number, a.bytes,
                     kinds[static_cast<int>(a.kind)], a.device);
}

std::string describe(std::uintptr_t address) {
  if (!is_in_arenas(address)) return "memory of the host";
  const Allocation* nearest = nullptr;
  std::uint64_t distance = 0;
  const int count = segment().allocations.load();
  for (int i = 0; i < count; ++i) {
    const Allocation& a = segment().table[i];
    const std::uint64_t away = address < a.begin             ? a.begin - address
                               : address < a.begin + a.bytes ? 0
                                                             : address - a.begin - a.bytes + 1;
    if (nearest == nullptr || away < distance) {
      nearest = &a;
      distance = away;
    }
  }
  if (nearest == nullptr) return "no allocation";
  const std::string which = (nearest->is_live ? "" : "the freed ") + describe(*nearest);
  if (address < nearest->begin)
    return fmt::format("{} bytes before {}", nearest->begin - address, which);
  if (distance == 0) return fmt::format("byte {} of {}", address - nearest->begin, which);
  return fmt::format("{} bytes behind the end of {}", distance - 1, which);
}

std::int64_t touched_bytes() {
  std::int64_t bytes = 0;
  for (int d = 0; d < most_devices; ++d) {
    struct stat status {};
    if (fstat(files[d], &status) == 0) bytes += std::int64_t{status.st_blocks} * 512;
  }
  return bytes;
}

}  // namespace emulation
