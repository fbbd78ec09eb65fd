#pragma once

/// Sharded checkpoints in HDF5: one directory a checkpoint, one file a rank
/// or a few ranks, one manifest.
///
/// A checkpoint appears under its name in one rename, when all ranks' files are written, synced and
/// hashed; a crash leaves the older ones as they were. It loads on any number of ranks. Every
/// file's size and checksum are verified before its contents are used. docs/checkpoints.md
/// describes the format.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shardmix/optimizer.hpp"

namespace shardmix {

struct CheckpointOptions {
  int keep_last = 3;  ///< older complete checkpoints are removed after a save; 0: keep all
  std::int64_t keep_every = 0;  ///< but those of every so many steps stay for good; 0: none do
  /// Ranks that share a file, at most all of a node: the first of them writes for the others.
  /// Fewer files, for a file system to which very many are a burden; a save takes longer.
  int ranks_per_file = 1;
};

/// The checkpoints of one run, in one directory that all ranks see. All functions are collective.
class Checkpoints {
 public:
  Checkpoints(Runtime& runtime, std::filesystem::path directory,
              const CheckpointOptions& options = {});
  ~Checkpoints();
  Checkpoints(Checkpoints&&) noexcept;
  Checkpoints& operator=(Checkpoints&&) = delete;

  /// Writes the optimizer's state, and `trainer_state`, any text of the caller's (data position,
  /// seeds). Returns the checkpoint's directory. Throws CheckpointError on all ranks where any of
  /// them fails; the optimizer and the earlier checkpoints are then as they were.
  std::filesystem::path save(ShardedOptimizer& optimizer, std::string_view trainer_state = {});

  /// Begins a save that goes on beside the training: a thread copies the state (so much host memory
  /// is kept until this object's end) while the next gradients are computed, and writes the copy.
  /// The next update waits until the state is copied; parameters must stay as they are until then.
  /// Finishes a save that is under way first, and throws what finish() throws of it; no new one has
  /// begun then.
  void begin_save(ShardedOptimizer& optimizer, std::string_view trainer_state = {});
  /// Commits the save under way once all ranks have written: call it after each step. Returns its
  /// directory then. Throws CheckpointError as save() does; training may go on.
  std::optional<std::filesystem::path> poll();
  /// Waits for the save under way, if any, and commits it. A run's end must: without it the save is
  /// dropped.
  std::optional<std::filesystem::path> finish();

  /// Loads the newest complete checkpoint of the directory and returns its step; 0 where there is
  /// none. A newer one that is damaged is passed over, with a line that says why.
  std::int64_t resume(ShardedOptimizer& optimizer, const SwitchOptions& options = {});

  /// Loads the checkpoint in directory `checkpoint` and returns its step. Where it was written by
  /// another rule than the optimizer's, this is a switch, as ShardedOptimizer::switch_rule() makes
  /// it. Throws CheckpointError if it is damaged, of another model, or lacks what the rule needs,
  /// and ConfigError if m2 can't start as `options` say; the optimizer's state is undefined after
  /// the first of these alone, unless it came before any state was read.
  std::int64_t load(const std::filesystem::path& checkpoint, ShardedOptimizer& optimizer,
                    const SwitchOptions& options = {});

  /// The text that was saved with the checkpoint loaded last.
  [[nodiscard]] const std::string& trainer_state() const noexcept;
  /// The switch that the last load was, if it was one.
  [[nodiscard]] const std::optional<SwitchReport>& load_switch() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Where an array of a file lies.
struct CheckpointArray {
  std::string name = {};  ///< as in HDF5: "/index", "/state/m1", ...
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

/// One file of a checkpoint, as its manifest promises it.
struct CheckpointFile {
  std::string name = {};
  std::int64_t bytes = 0;
  std::string xxh3_128 = {};               ///< of the whole file, 32 hexadecimal digits
  std::int64_t head_bytes = 0;             ///< what lies before the first value
  std::vector<std::uint64_t> blocks = {};  ///< XXH3 of the head, and of each 64 MiB after it
  std::vector<CheckpointArray> arrays = {};
};

/// A file of a checkpoint that is for people alone: virtual datasets over the others.
struct CheckpointView {
  std::string name = {};
  std::int64_t bytes = 0;
  std::string xxh3_128 = {};  ///< of the whole file, 32 hexadecimal digits
};

/// One parameter, as the manifest describes it.
struct CheckpointParameter {
  std::string name = {};
  std::vector<std::int64_t> shape = {};
  DType dtype = DType::fp32;
  bool trainable = true;

  [[nodiscard]] std::int64_t elements() const noexcept;
};

/// What a manifest says. Read without MPI, a GPU or HDF5.
struct CheckpointInfo {
  std::filesystem::path directory = {};
  std::string created = {};  ///< UTC, ISO 8601
  std::string shardmix_version = {};
  std::string rule = {};       ///< "ademamix", "adamw", ...
  std::string rule_json = {};  ///< its hyper-parameters
  Clocks clocks = {};
  double loss_scale = 1.0;
  /// Steps since the loss scale changed that were not skipped; unset where it is constant.
  std::optional<std::int64_t> usable_steps = std::nullopt;
  int world_size = 0;
  std::vector<std::string> states = {};  ///< of "master", "m1", "m2", "v"
  std::vector<CheckpointParameter> parameters = {};
  std::vector<MemoryReport> memory = {};  ///< of each rank that wrote it
  std::vector<CheckpointFile> files = {};
  std::optional<CheckpointView> view = std::nullopt;
  std::string trainer_state = {};
};

/// Reads and checks the manifest of a checkpoint directory (or of the newest checkpoint in a run's
/// directory). Throws CheckpointError.
[[nodiscard]] CheckpointInfo inspect_checkpoint(const std::filesystem::path& path);

/// What verify_checkpoint() found. Damage is told in sentences that name the file.
struct CheckpointVerdict {
  struct File {
    std::string name = {};
    std::int64_t bytes = 0;   ///< as the manifest says
    std::string damage = {};  ///< "" where the file is good
  };
  std::filesystem::path directory = {};
  std::vector<File> files = {};  ///< those of the state, then the view if there is one
  std::string damage = {};       ///< of the manifest, or of what the files hold together; "": none

  [[nodiscard]] bool is_good() const noexcept;
};

/// Told now and then how far a long reading is, in bytes.
using CheckpointProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Reads every byte of a checkpoint (or of the newest one in a run's directory) and compares sizes,
/// checksums and what the files hold with the manifest. Without MPI or a GPU. Throws
/// CheckpointError where there is no checkpoint; a damaged one is no error.
[[nodiscard]] CheckpointVerdict verify_checkpoint(const std::filesystem::path& path,
                                                  const CheckpointProgress& progress = {});

}  // namespace shardmix
