#include "checkpoint/reshard.hpp"

#include "checkpoint/run_directory.hpp"
#include "checkpoint/values.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Throws the first damage.
OpenCheckpoint open_verified(const fs::path& directory, const CheckpointProgress& progress) {
  const CheckpointVerdict verdict = verify_checkpoint(directory, progress);
  if (!verdict.damage.empty()) throw CheckpointError(verdict.damage);
  for (const CheckpointVerdict::File& file : verdict.files) {
    if (!file.damage.empty()) throw CheckpointError(file.damage);
  }
  return open_alone(directory);
}

}  // namespace

CheckpointInfo reshard_checkpoint(const fs::path& checkpoint, const fs::path& run_directory,
                                  const Cut& cut, const CheckpointProgress& progress) {
  const fs::path from = find_checkpoint(checkpoint);
  require_sensible(cut, run_directory, inspect_checkpoint(from).clocks.step);
  const auto half = [&](std::int64_t before) -> CheckpointProgress {
    if (!progress) return {};
    return [&progress, before](std::int64_t done, std::int64_t total) {
      progress(before * total + done, 2 * total);
    };
  };
  const OpenCheckpoint open = open_verified(from, half(0));
  ValueReader reader(open);
  return write_alone(
      open.info, run_directory, cut,
      [&reader](std::size_t parameter, std::string_view state, std::int64_t offset,
                std::span<float> values) { reader.read(parameter, state, offset, values); },
      half(1));
}

}  // namespace shardmix::checkpoint
