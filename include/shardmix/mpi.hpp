#pragma once

/// For programs that run MPI themselves. The one public header that knows MPI.

#include <mpi.h>

#include "shardmix/runtime.hpp"

namespace shardmix {

/// A Runtime on a communicator of the caller's: the data-parallel group, the ranks that hold the
/// same parameters. Collective over `communicator`, which is duplicated and stays the caller's. MPI
/// must be initialised and must stay so for the Runtime's life. With MPI_THREAD_MULTIPLE a thread
/// of its own moves messages while the caller computes; else they move inside its calls alone.
/// A rank that dies may end others by SIGPIPE, unless they ignore it. Throws CommError. After a
/// later CommError MPI must not be called any more, not to end it either: messages might arrive in
/// memory that is gone, and MPI_Finalize waits for ranks that are gone.
[[nodiscard]] Runtime adopt(MPI_Comm communicator, const RuntimeOptions& options = {});

}  // namespace shardmix
