#pragma once

#include <mpi.h>

#include <source_location>

namespace shardmix::comm {

/// Throws CommError with the call, its place, the rank and MPI's own text, unless `status` is
/// MPI_SUCCESS.
void check(int status, const char* call,
           std::source_location where = std::source_location::current());

}  // namespace shardmix::comm
