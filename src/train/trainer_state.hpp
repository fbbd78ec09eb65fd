#pragma once

/// What the trainer stores beside the optimizer's state in a checkpoint: enough to notice, on
/// resume, that the run is not the one that was left.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/model_shape.hpp"

namespace shardmix::train {

struct TrainerState {
  std::uint64_t seed = 0;
  std::int64_t batch = 0;
  ModelShape shape;
  std::int64_t text_bytes = 0;
  std::uint64_t text_hash = 0;
  std::int64_t tokens = 0;  ///< trained on since the first step
  std::string rule;         ///< of the last step, as describe() tells it
  std::string precision;    ///< as describe_precision() tells it

  bool operator==(const TrainerState&) const = default;
};

[[nodiscard]] std::string to_json(const TrainerState& state);

/// Nothing for a text that to_json() didn't write: a checkpoint of another trainer's.
[[nodiscard]] std::optional<TrainerState> trainer_state_from_json(std::string_view text);

/// A sentence for each thing that makes the resumed run another than the stored one.
[[nodiscard]] std::vector<std::string> differences(const TrainerState& stored,
                                                   const TrainerState& now);

}  // namespace shardmix::train
