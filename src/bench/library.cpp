#include "bench/library.hpp"

#include "math/bfloat16.hpp"
#include "shardmix/error.hpp"

namespace shardmix::bench {
namespace {

void require(int status, const char* call) {
  if (status != MPI_SUCCESS) throw CommError(std::string(call) + " failed");
}

extern "C" void add_bf16(void* in, void* inout, int* count, MPI_Datatype* /*type*/) {
  const auto* from = static_cast<const std::uint16_t*>(in);
  auto* to = static_cast<std::uint16_t*>(inout);
#pragma GCC ivdep
  for (int i = 0; i < *count; ++i) {
    to[i] = static_cast<std::uint16_t>(
        math::bf16_bits(math::float_from_bf16(from[i]) + math::float_from_bf16(to[i])));
  }
}

}  // namespace

Library::Library(DType dtype) {
  if (dtype == DType::fp32) return;
  if (dtype == DType::fp16)
    throw ConfigError("the MPI library's collectives are measured with fp32 and bf16 alone");
  type_ = MPI_UINT16_T;
  require(MPI_Op_create(&add_bf16, 1, &sum_), "MPI_Op_create");
}

Library::~Library() {
  if (sum_ != MPI_SUM) MPI_Op_free(&sum_);
}

void Library::reduce_scatter(const std::byte* from, std::byte* to, std::int64_t elements) const {
  require(
      MPI_Reduce_scatter_block(from, to, static_cast<int>(elements), type_, sum_, MPI_COMM_WORLD),
      "MPI_Reduce_scatter_block");
}

void Library::all_gather(std::byte* data, std::int64_t elements) const {
  require(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, static_cast<int>(elements), type_,
                        MPI_COMM_WORLD),
          "MPI_Allgather");
}

}  // namespace shardmix::bench
