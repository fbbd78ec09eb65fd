#pragma once

#include <atomic>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "checkpoint/file_group.hpp"
#include "checkpoint/live_shard.hpp"
#include "checkpoint/view.hpp"
#include "optimizer/optimizer_impl.hpp"
#include "shardmix/checkpoints.hpp"

namespace shardmix::checkpoint {

/// One save, from the copy of the state to the commit. A crash or an error at any point leaves
/// either all of the new checkpoint or none of it, and the older ones as they were.
class Save {
 public:
  /// Makes the temporary directory. Collective; `optimizer` must be done with its step. Throws
  /// CheckpointError, on all ranks, where there is no room.
  Save(ShardedOptimizer::Impl& optimizer, const std::filesystem::path& run_directory,
       const CheckpointOptions& options, std::string_view trainer_state);
  /// Ends the thread. What wasn't committed is removed, if the other ranks are well.
  ~Save();
  Save(const Save&) = delete;
  Save& operator=(const Save&) = delete;

  /// Begins to write this rank's part, in a thread; an error is commit()'s. Local.
  void begin_writing(std::unique_ptr<ShardSource> source);
  /// The same, after it has copied `source` into `copy`, which must last as long as this. The
  /// future is ready when `source` may change again.
  [[nodiscard]] std::shared_future<void> begin_writing(std::unique_ptr<ShardSource> source,
                                                       Snapshot& copy);
  /// Whether the part is written. Local.
  [[nodiscard]] bool is_written() const noexcept { return is_written_; }

  /// Waits for the thread, makes the checkpoint what a loader finds, and removes old ones.
  /// Collective. Returns its directory. Throws CheckpointError on all ranks if any failed.
  std::filesystem::path commit();

 private:
  void remove_temporary() noexcept;
  /// This rank's part, and rank 0's view of all.
  void write(const ShardSource& source);
  [[nodiscard]] ShardContents contents(int rank) const;
  [[nodiscard]] std::vector<ViewedFile> viewed_files() const;
  /// Throws CommError where another rank is gone.
  void await_writing();
  /// Keeps what it throws for commit().
  void attempt(const std::function<void()>& work) noexcept;

  comm::Collectives& collectives_;
  std::filesystem::path run_directory_;
  CheckpointOptions options_;
  CheckpointInfo info_;
  MemoryReport memory_;
  layout::Layout layout_;  ///< a copy: the thread may outlive the optimizer
  FileGroup group_;
  std::filesystem::path temporary_;
  bool keeps_temporary_ = false;
  std::optional<CheckpointFile> file_;  ///< where this rank writes one
  std::exception_ptr error_;
  std::atomic<bool> is_written_ = false;
  std::thread thread_;
};

}  // namespace shardmix::checkpoint
