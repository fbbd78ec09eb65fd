#include "shardmix/error.hpp"
#include "train/train.hpp"

namespace shardmix::train {

int train(Runtime& /*runtime*/, const TrainOptions& /*options*/) {
  throw ConfigError(
      "this build has no trainer, since LibTorch was not found or not wanted; launch/setup "
      "installs LibTorch, then configure with -DSHARDMIX_TRAIN=ON and build again");
}

bool trainer_available() noexcept {
  return false;
}

}  // namespace shardmix::train
