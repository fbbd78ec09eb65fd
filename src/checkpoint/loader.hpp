#pragma once

#include <filesystem>
#include <string>

#include "optimizer/optimizer_impl.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// Reads the manifest of the checkpoint in `directory`, then every file's size and checksum, and
/// that together the files hold each element of each parameter once. Collective; the files are
/// shared out among the ranks. Throws CheckpointError.
[[nodiscard]] CheckpointInfo verify(comm::Collectives& collectives,
                                    const std::filesystem::path& directory);

/// Loads a verified checkpoint into `optimizer`. Collective. Returns a note on what changed on the
/// way (a switch of the rule), or "". Throws CheckpointError, before anything is changed, where the
/// model isn't the same.
[[nodiscard]] std::string load(ShardedOptimizer::Impl& optimizer, const CheckpointInfo& info);

}  // namespace shardmix::checkpoint
