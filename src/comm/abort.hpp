#pragma once

namespace shardmix::comm {

/// Ends all ranks at once: for an error that one rank met alone and couldn't tell the others of.
[[noreturn]] void abort_all(int exit_code) noexcept;

}  // namespace shardmix::comm
