#include "comm/mpi_check.hpp"

#include <fmt/format.h>

#include "shardmix/error.hpp"

namespace shardmix::comm {

void check(int status, const char* call, std::source_location where) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw CommError(fmt::format("{} failed on rank {} ({}:{}): {}", call, rank, where.file_name(),
                              where.line(), text));
}

}  // namespace shardmix::comm
