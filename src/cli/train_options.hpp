#pragma once

#include <vector>

#include "cli/options.hpp"
#include "train/options.hpp"

namespace shardmix::cli {

/// The options of `shardmix train`; their values go into `target`, whose present ones are the
/// defaults.
[[nodiscard]] std::vector<OptionGroup> train_option_groups(train::TrainOptions& target);

}  // namespace shardmix::cli
