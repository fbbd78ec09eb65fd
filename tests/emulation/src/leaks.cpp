#include "leaks.hpp"

#include <cstdio>

#include "arena.hpp"
#include "graphs.hpp"
#include "nccl_communicator.hpp"
#include "process.hpp"
#include "streams.hpp"

namespace emulation {

bool report_leaks() {
  if (setting("EMULATION_LEAKS", 0) == 0) return false;
  bool has_leaks = false;
  const auto say = [&](const std::string& what) {
    std::fprintf(stderr, "emulated GPU: at the end there is still %s\n", what.c_str());
    has_leaks = true;
  };
  for (int i = 0; i < segment().allocations; ++i) {
    const Allocation& a = segment().table[i];
    if (a.is_live) say(describe(a));
  }
  if (const int left = streams_left(); left > 0) say(fmt::format("{} streams", left));
  if (const int left = events_left(); left > 0) say(fmt::format("{} events", left));
  if (const int left = graphs_left(); left > 0) say(fmt::format("{} graphs", left));
  if (const int left = nccl::communicators_left(); left > 0)
    say(fmt::format("{} communicators", left));
  return has_leaks;
}

}  // namespace emulation
