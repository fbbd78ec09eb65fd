#pragma once

#include <string_view>

#include "comm/group.hpp"

namespace shardmix::comm {

/// Ends this rank after an error that it may have met alone. The others are told, and end with an
/// error of their own: MPI_Abort would end them before they can say it.
[[noreturn]] void end_process(const Group& group, std::string_view error, int exit_code) noexcept;

}  // namespace shardmix::comm
