#pragma once

/// Where memory of devices and pinned memory lie: a range of addresses for each kind and device,
/// the same in the host's process and the device's, each over an anonymous file. The host has no
/// access to memory of devices. Addresses are never used twice, and pages without access lie
/// between allocations.

#include <optional>
#include <string>

#include "segment.hpp"

namespace emulation {

/// Before the fork: the files, and the addresses without access.
void reserve_arenas();

/// Host: an entry for new memory; nothing is mapped. Null: no address is left.
/// Memory of devices ends where its pages do, unless it is to begin with a page.
[[nodiscard]] Allocation* new_allocation(Kind kind, std::size_t bytes, int device,
                                         bool begins_page);
/// Either process: pages for an allocation, in the device's process filled with poison.
void map_pages(Allocation& allocation);
/// Either process: takes them away. The device's process looks whether bytes beside it were
/// written.
void unmap_pages(Allocation& allocation);
/// The pages of an import: those of another process's file.
[[nodiscard]] bool map_import(Allocation& allocation, int descriptor, std::uint64_t offset);

/// Host: the live allocation that `address` lies in, or null.
[[nodiscard]] Allocation* find(const void* address);
/// Host: forgets an allocation for find().
void forget(Allocation& allocation);

[[nodiscard]] bool is_in_arenas(std::uintptr_t address);
/// "byte 16 of allocation 7 (4096 bytes of device 0)", of live and freed ones and what lies near.
[[nodiscard]] std::string describe(std::uintptr_t address);
[[nodiscard]] std::string describe(const Allocation& allocation);

/// Where an allocation lies in its file: for other processes.
struct FileRange {
  int descriptor;
  std::uint64_t offset;
};
[[nodiscard]] FileRange file_range(const Allocation& allocation);
[[nodiscard]] std::int64_t touched_bytes();

}  // namespace emulation
