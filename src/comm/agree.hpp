#pragma once

#include <functional>

#include "comm/collectives.hpp"

namespace shardmix::comm {

/// Runs `local` on every rank. If it threw on any, all ranks throw the error of the first that
/// failed, of the same type where that is one of shardmix's, with its rank in front (unless all
/// failed): so none goes on to wait for the others.
void agreed(Collectives& collectives, const std::function<void()>& local);

}  // namespace shardmix::comm
