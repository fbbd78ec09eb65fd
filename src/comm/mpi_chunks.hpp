#pragma once

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "comm/mpi_check.hpp"

namespace shardmix::comm {

/// MPI counts are int: the one place where larger messages are cut. Calls call(address, bytes).
template <class Call>
void in_chunks(std::byte* data, std::int64_t bytes, const Call& call) {
  constexpr std::int64_t largest_message = std::int64_t{1} << 30;
  for (std::int64_t begin = 0; begin < bytes; begin += largest_message) {
    call(data + begin, static_cast<int>(std::min(largest_message, bytes - begin)));
  }
}

}  // namespace shardmix::comm
