#pragma once

/// The view of a checkpoint: a small HDF5 file beside the shards whose virtual datasets show each
/// state of each parameter whole and in its own shape. It is for people and other programs; no load
/// looks at it. All functions throw CheckpointError that names the file.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "checkpoint/contents.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

inline constexpr const char* view_name = "view.h5";

/// A view is put together from boxes, which cost HDF5 some 6 microseconds and 110 bytes each. A
/// checkpoint that needs more of them, for many pieces of many ranks, gets none.
inline constexpr std::int64_t most_view_boxes = 1 << 18;
/// The boxes, of all states, for what a file holds.
[[nodiscard]] std::int64_t view_boxes(const CheckpointInfo& info, const ShardIndex& index);

/// Writes the view of the files in `info`, whose indices these are, and syncs it. Parameters whose
/// names HDF5 can't have are left out, and listed in an attribute.
[[nodiscard]] CheckpointView write_view(const std::filesystem::path& directory,
                                        const CheckpointInfo& info,
                                        const std::vector<ShardIndex>& indices);

/// Reads it all and compares its size and checksum. `progress` gets the bytes of each step.
void verify_view(const std::filesystem::path& directory, const CheckpointView& view,
                 const std::function<void(std::int64_t)>& progress = {});

}  // namespace shardmix::checkpoint
