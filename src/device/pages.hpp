#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace shardmix::device {

/// Makes host memory zero, and gives the whole pages in it back until they are written again: by
/// MADV_DONTNEED where the memory is this process's alone, by MADV_REMOVE where it is shared.
inline void discard_pages(std::byte* memory, std::size_t bytes, int advice) {
  if (bytes == 0) return;
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const std::size_t head = std::min(bytes, (page - address % page) % page);
  const std::size_t whole = (bytes - head) / page * page;
  if (whole == 0 || madvise(memory + head, whole, advice) != 0) {
    std::memset(memory, 0, bytes);
    return;
  }
  std::memset(memory, 0, head);
  std::memset(memory + head + whole, 0, bytes - head - whole);
}

}  // namespace shardmix::device
