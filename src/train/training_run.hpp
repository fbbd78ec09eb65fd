#pragma once

/// One run of the trainer: its data, model, optimizer, checkpoints and files, and the loop that
/// uses them.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "shardmix/checkpoints.hpp"
#include "shardmix/error.hpp"
#include "train/gpt.hpp"
#include "train/loss_sum.hpp"
#include "train/metrics.hpp"
#include "train/options.hpp"
#include "train/progress.hpp"
#include "train/resume.hpp"
#include "train/trainer_state.hpp"
#include "train/training_data.hpp"

namespace shardmix::train {

class TrainingRun {
 public:
  /// Reads the text, allocates the model and takes up the checkpoint. Collective.
  TrainingRun(Runtime& runtime, const TrainOptions& options);

  /// Trains up to the last step, or until a signal. Returns the program's exit code. Collective.
  [[nodiscard]] int run();

 private:
  void take_up();
  void describe_run() const;
  void open_outputs();

  /// One optimizer step. The second value: whether any rank was asked to stop.
  struct StepResult {
    StepMetrics metrics;
    bool stop = false;
  };
  [[nodiscard]] StepResult do_step();
  [[nodiscard]] LossSum backward_all(std::int64_t step);
  [[nodiscard]] std::optional<double> held_out_loss();
  void report(const StepMetrics& metrics);
  void switch_rule();
  [[nodiscard]] bool is_due(std::int64_t every) const noexcept;

  /// A save that must succeed, and one that may fail.
  void save();
  void try_to_save();
  /// Commits the save in the background once it is written, or waits for it.
  void look_after_save(bool wait);
  void saved(std::int64_t step, const std::filesystem::path& directory);
  void warn_not_saved(std::int64_t step, const CheckpointError& error);
  [[nodiscard]] int stop_early();

  Runtime& runtime_;
  const TrainOptions& options_;
  comm::Collectives& collectives_;
  ModelShape shape_;
  BatchPlan plan_;
  TrainingData data_;
  ShardedOptimizer optimizer_;
  Gpt model_;
  Checkpoints checkpoints_;
  TrainerState state_;
  std::int64_t step_ = 0;         ///< steps done
  bool switches_ = false;         ///< from one rule to another, later on
  std::int64_t saved_step_ = 0;   ///< steps done when the last checkpoint was written or read
  std::int64_t saving_step_ = 0;  ///< the same of the one that is being written
  std::chrono::steady_clock::time_point save_began_;
  std::unique_ptr<MetricsFile> metrics_;  ///< rank 0's
  std::unique_ptr<Progress> progress_;    ///< rank 0's
};

}  // namespace shardmix::train
