#pragma once

/// Memory that processes share, at an address that a host process and its device process have in
/// common.

#include <cstddef>

#include "process.hpp"

namespace emulation {

/// Host: maps a file of any process for both. Null: it can't be opened, as its process is gone.
[[nodiscard]] void* map_for_both(const FilePath& path, std::size_t bytes);
void unmap_for_both(void* memory, std::size_t bytes);

/// The segment of another host process of this machine, or null. It stays mapped.
[[nodiscard]] Segment* segment_of(int host);

}  // namespace emulation
