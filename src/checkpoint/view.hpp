#pragma once

/// The view of a checkpoint: a small HDF5 file beside the shards whose virtual datasets show each
/// state of each parameter whole and in its own shape. It is for people and other programs; no load
/// looks at it. All functions throw CheckpointError that names the file.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/shard_source.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

inline constexpr const char* view_name = "view.h5";

/// A view is put together from boxes, which cost HDF5 some 6 microseconds and 110 bytes each. A
/// checkpoint that needs more of them, for many pieces of many ranks, gets none.
inline constexpr std::int64_t most_view_boxes = 1 << 20;

/// A file that a view shows.
struct ViewedFile {
  std::string name;
  ShardContents contents;
};

/// Writes the view of these files and syncs it; nothing if it needs too many boxes. `info` says
/// what the parameters and states are. Parameters whose names HDF5 can't have are left out, and
/// listed in an attribute.
[[nodiscard]] std::optional<CheckpointView> write_view(const std::filesystem::path& directory,
                                                       const CheckpointInfo& info,
                                                       const std::vector<ViewedFile>& files);

/// Reads it all and compares its size and checksum. `progress` gets the bytes of each step.
void verify_view(const std::filesystem::path& directory, const CheckpointView& view,
                 const std::function<void(std::int64_t)>& progress = {});

}  // namespace shardmix::checkpoint
