#include "shardmix/dtype.hpp"

#include <fmt/format.h>

#include "shardmix/error.hpp"

namespace shardmix {

DType dtype_named(std::string_view name) {
  for (const DType dtype : all_dtypes) {
    if (name == name_of(dtype)) return dtype;
  }
  throw ConfigError(fmt::format("there is no dtype '{}'; expected fp32, bf16 or fp16", name));
}

}  // namespace shardmix
