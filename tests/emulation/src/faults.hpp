#pragma once

/// Signals that stand for what a GPU would have refused.

namespace emulation {

/// Explains accesses to memory that isn't there, in either process: now, and again where another
/// library has taken the signals since.
void watch_for_faults();

/// An alternate stack for the handler on this thread: fibers may have none left.
void give_signal_stack();

}  // namespace emulation
