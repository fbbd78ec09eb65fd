#pragma once

/// All of the public API but shardmix/mpi.hpp.

#include "shardmix/checkpoints.hpp"
#include "shardmix/dtype.hpp"
#include "shardmix/error.hpp"
#include "shardmix/optimizer.hpp"
#include "shardmix/parameters.hpp"
#include "shardmix/presets.hpp"
#include "shardmix/rules.hpp"
#include "shardmix/runtime.hpp"
#include "shardmix/schedule.hpp"
#include "shardmix/switch.hpp"
#include "shardmix/version.hpp"
