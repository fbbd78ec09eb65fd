#pragma once

#include <atomic>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string_view>
#include <thread>

#include "checkpoint/shard_reader.hpp"
#include "checkpoint/shard_source.hpp"
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
       const CheckpointOptions& options, std::string_view trainer_state, const ShardSource& source);
  /// Waits for the thread. What wasn't committed is removed, if the other ranks are well.
  ~Save();
  Save(const Save&) = delete;
  Save& operator=(const Save&) = delete;

  /// Writes this rank's part. Local; an error is commit()'s.
  void write(const ShardSource& source);
  /// The same in a thread, which first copies `source` into `copy`. The future is ready when
  /// `source` may change again; `copy` must last as long as this.
  [[nodiscard]] std::shared_future<void> begin_writing(std::unique_ptr<ShardSource> source,
                                                       Snapshot& copy);
  /// Whether the part is written. Local.
  [[nodiscard]] bool is_written() const noexcept { return is_written_; }

  /// Waits for the thread, then makes the checkpoint what a loader finds, and removes old ones.
  /// Collective. Returns its directory. Throws CheckpointError on all ranks if any failed.
  std::filesystem::path commit();

 private:
  void remove_temporary() noexcept;
  /// Keeps what it throws for commit().
  void attempt(const std::function<void()>& work) noexcept;

  comm::Collectives& collectives_;
  std::filesystem::path run_directory_;
  CheckpointOptions options_;
  CheckpointInfo info_;
  MemoryReport memory_;
  std::filesystem::path temporary_;
  bool keeps_temporary_ = false;
  CheckpointFile file_;
  ShardIndex index_;  ///< of file_
  std::exception_ptr error_;
  std::atomic<bool> is_written_ = false;
  std::thread thread_;
};

}  // namespace shardmix::checkpoint
