#include "shared_files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <mutex>

#include "errors.hpp"
#include "queue.hpp"

namespace emulation {
namespace {

constexpr std::uintptr_t first_address = 0x5000'0000'0000;
std::mutex mutex;
std::uintptr_t next_address = first_address;

/// Whether the file is mapped at `address` in this process.
bool map_here(const FilePath& path, void* address, std::size_t bytes) {
  const int file = open(path.text, O_RDWR | O_CLOEXEC);
  if (file < 0) return false;
  void* mapped = mmap(address, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE, file, 0);
  close(file);
  if (mapped != address)
    fatal("{} couldn't be mapped at {}: {}", path.text, address, std::strerror(errno));
  return true;
}

}  // namespace

void* map_for_both(const FilePath& path, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  void* address = reinterpret_cast<void*>(next_address);
  if (!map_here(path, address, bytes)) return nullptr;
  run_in_device([path, address, bytes] { segment().reply = map_here(path, address, bytes); });
  if (segment().reply == 0) {
    munmap(address, bytes);
    return nullptr;
  }
  next_address += (bytes + 0xFFFF) / 0x1'0000 * 0x1'0000;
  return address;
}

void unmap_for_both(void* memory, std::size_t bytes) {
  run_in_device([memory, bytes] { munmap(memory, bytes); });
  munmap(memory, bytes);
}

Segment* segment_of(int host) {
  if (host == segment().host) return &segment();
  static std::mutex known_mutex;
  static auto& known = *new std::map<int, Segment*>;
  const std::lock_guard lock(known_mutex);
  Segment*& found = known[host];
  if (found == nullptr) {
    found =
        static_cast<Segment*>(map_for_both(file_path(host, segment_descriptor()), sizeof(Segment)));
  }
  return found;
}

}  // namespace emulation
