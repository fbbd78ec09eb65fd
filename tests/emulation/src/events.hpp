#pragma once

#include "streams.hpp"

namespace emulation {

/// An event with a slot of its own (`slot` < 0), or one of another process.
[[nodiscard]] Event* new_event(Segment* where, int slot, unsigned flags);
/// The number of an event's last record; 0: none.
[[nodiscard]] std::uint64_t last_record(const Event& event);

}  // namespace emulation
