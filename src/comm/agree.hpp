#pragma once

#include <functional>

#include "comm/collectives.hpp"
#include "shardmix/error.hpp"

namespace shardmix::comm {

/// A DeviceError that all ranks throw.
class AgreedDeviceError final : public DeviceError {
  using DeviceError::DeviceError;
};

/// Runs `local` on every rank. If it threw on any, all ranks throw the error of the first that
/// failed, of the same type where that is one of shardmix's, with its rank in front (unless all
/// failed): so none goes on to wait for the others.
void agreed(Collectives& collectives, const std::function<void()>& local);

}  // namespace shardmix::comm
