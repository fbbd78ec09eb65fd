// What ends a run of several ranks: misuse_program NAME, of which CMakeLists.txt has the sentences.

#include <cuda_runtime.h>
#include <mpi.h>
#include <nccl.h>

#include <cstdio>
#include <string_view>

namespace {

ncclComm_t communicator = nullptr;
float* data = nullptr;

void start(int rank, int size) {
  ncclUniqueId id{};
  if (rank == 0) ncclGetUniqueId(&id);
  MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
  ncclCommInitRank(&communicator, size, id, rank);
  cudaMalloc(&data, 4000);
}

void misuse(std::string_view name, int rank) {
  const auto count = static_cast<std::size_t>(rank == 0 ? 100 : 200);
  if (name == "counts") {
    ncclAllReduce(data, data, 10, ncclFloat32, ncclSum, communicator, nullptr);
    ncclAllReduce(data, data, count, ncclFloat32, ncclSum, communicator, nullptr);
  } else if (name == "order") {
    if (rank == 0) ncclAllGather(data, data, 100, ncclFloat32, communicator, nullptr);
    ncclBroadcast(data, data, 100, ncclFloat32, 0, communicator, nullptr);
  } else if (name == "messages") {
    if (rank == 0) ncclSend(data, 100, ncclFloat32, 1, communicator, nullptr);
    if (rank == 1) ncclRecv(data, 50, ncclFloat32, 0, communicator, nullptr);
  } else if (name == "registered") {
    void* handle = nullptr;
    if (rank == 0) ncclCommRegister(communicator, data, 4000, &handle);
    ncclAllReduce(data, data, 10, ncclFloat32, ncclSum, communicator, nullptr);
  } else if (name == "windows") {
    void* memory = nullptr;
    ncclWindow_t window = nullptr;
    ncclMemAlloc(&memory, 8192);
    ncclCommWindowRegister(communicator, memory, 4096 * (rank + 1), &window, 0);
  } else if (name == "host") {
    float local[10] = {};
    ncclAllReduce(local, data, 10, ncclFloat32, ncclSum, communicator, nullptr);
  } else if (name == "touch") {
    data[3] = 1.0f;  // below MPI's own handlers of signals
  } else if (name == "send") {
    MPI_Sendrecv(data, 1000, MPI_FLOAT, 1 - rank, 0, data, 1000, MPI_FLOAT, 1 - rank, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);  // MPI can't reach it either
  }
  cudaDeviceSynchronize();
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  start(rank, size);
  misuse(argc > 1 ? argv[1] : "", rank);
  std::puts("nothing was noticed");
  MPI_Finalize();
}
