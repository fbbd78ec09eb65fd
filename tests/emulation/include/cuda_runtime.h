#pragma once

/// CUDA's runtime as far as the product and its tests use it, carried out on hosts: kernels are
/// compiled as C++ and run in a process of their own. README.md says how it behaves.

#include "emulated/api.hpp"
#include "emulated/atomics.hpp"
#include "emulated/kernel.hpp"
#include "emulated/launch.hpp"
#include "emulated/types.hpp"
#include "emulated/vectors.hpp"
#include "emulated/warp.hpp"
