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

Library::Library(DType dtype, bool rounds, std::int64_t elements, int ranks)
    : dtype_(dtype), rounds_(rounds && dtype != DType::fp32), elements_(elements) {
  if (dtype == DType::fp16)
    throw ConfigError("the MPI library's collectives are measured with fp32 and bf16 alone");
  if (rounds_) {
    require(MPI_Op_create(&add_bf16, 1, &sum_), "MPI_Op_create");
  } else if (dtype != DType::fp32) {
    widened_.resize(static_cast<std::size_t>(elements * ranks));
  }
}

Library::~Library() {
  if (sum_ != MPI_SUM) MPI_Op_free(&sum_);
}

void Library::reduce_scatter(const std::byte* gradients, std::byte* to) {
  const void* from = gradients;
  if (!widened_.empty()) {
    const auto* halves = reinterpret_cast<const std::uint16_t*>(gradients);
    for (std::size_t i = 0; i < widened_.size(); ++i)
      widened_[i] = math::float_from_bf16(halves[i]);
    from = widened_.data();
  }
  require(MPI_Reduce_scatter_block(from, to, static_cast<int>(elements_),
                                   rounds_ ? MPI_UINT16_T : MPI_FLOAT, sum_, MPI_COMM_WORLD),
          "MPI_Reduce_scatter_block");
}

void Library::all_gather(std::byte* parameters) const {
  const MPI_Datatype type = dtype_ == DType::fp32 ? MPI_FLOAT : MPI_UINT16_T;
  require(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, parameters, static_cast<int>(elements_),
                        type, MPI_COMM_WORLD),
          "MPI_Allgather");
}

}  // namespace shardmix::bench
