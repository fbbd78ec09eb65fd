#pragma once

/// The MPI library's own collectives, as a program would use that has nothing else.

#include <mpi.h>

#include <cstddef>
#include <cstdint>

#include "shardmix/dtype.hpp"

namespace shardmix::bench {

class Library {
 public:
  explicit Library(DType dtype);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  /// Adds all ranks' `from`, size() slices of `elements`, and leaves this rank's in `to`.
  void reduce_scatter(const std::byte* from, std::byte* to, std::int64_t elements) const;
  /// Brings every rank's slice, which lies at its place in `data`, to all.
  void all_gather(std::byte* data, std::int64_t elements) const;

 private:
  MPI_Datatype type_ = MPI_FLOAT;
  MPI_Op sum_ = MPI_SUM;
};

}  // namespace shardmix::bench
