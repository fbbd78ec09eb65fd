#pragma once

/// For trainers on GPUs: the order between their work and the optimizer's. Needs no CUDA header.

#include "shardmix/runtime.hpp"

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace shardmix {

/// Tells on which stream this rank's trainer computes; without, it is taken to be the default one.
/// A reduction then begins when what the trainer had queued there is done, at the latest when
/// step() is called; and what the trainer queues there after step() (with
/// OptimizerOptions::overlap: after wait()) finds the new parameters. Neither waits on the host.
/// Local; no effect on hosts.
void use_stream(Runtime& runtime, CUstream_st* stream);

}  // namespace shardmix
