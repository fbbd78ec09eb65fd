#include "shardmix/dtype.hpp"

#include <fmt/format.h>

#include "shardmix/error.hpp"

namespace shardmix {

DType dtype_named(std::string_view name) {
  for (const DType dtype : {fp32, bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw ConfigError(fmt::format("there is no dtype '{}'; expected fp32 or bf16", name));
}

}  // namespace shardmix
