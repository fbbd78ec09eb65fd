#pragma once

#include <functional>

#include "shardmix/runtime.hpp"

namespace shardmix::cli {

/// Runs a command's work on this rank and turns what it throws into a message and an exit code.
/// Errors that all ranks have agreed on end each of them; after any other all are ended, since they
/// no longer do the same things.
int run_on_ranks(const Runtime& runtime, const std::function<int()>& work);

}  // namespace shardmix::cli
