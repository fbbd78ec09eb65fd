#pragma once

/// The MPI library's own collectives, as a program would use that has nothing else.
///
/// MPI knows no 16-bit floats. For the same sums as ours a program widens its gradients to fp32;
/// one that is content with sums rounded to 16 bits gives MPI an operation of its own.

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "shardmix/dtype.hpp"

namespace shardmix::bench {

class Library {
 public:
  /// For gradients of `dtype`, `elements` in each of `ranks` slices.
  Library(DType dtype, bool rounds, std::int64_t elements, int ranks);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  /// Of the sums.
  [[nodiscard]] DType sum_dtype() const noexcept { return rounds_ ? dtype_ : DType::fp32; }

  /// Adds all ranks' gradients, and leaves the sums of this rank's slice in `to`.
  void reduce_scatter(const std::byte* gradients, std::byte* to);
  /// Brings every rank's slice, which lies at its place in `parameters`, to all.
  void all_gather(std::byte* parameters) const;

 private:
  DType dtype_;
  bool rounds_;
  std::int64_t elements_;
  std::vector<float> widened_;
  MPI_Op sum_ = MPI_SUM;
};

}  // namespace shardmix::bench
