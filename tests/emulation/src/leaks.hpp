#pragma once

namespace emulation {

/// Host, at its end: with EMULATION_LEAKS=1, says what was never freed or destroyed. Returns
/// whether there was anything.
[[nodiscard]] bool report_leaks();

}  // namespace emulation
