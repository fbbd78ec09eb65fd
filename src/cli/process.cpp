#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "cli/commands.hpp"

namespace shardmix::cli {

std::optional<std::string> launched_rank() {
  for (const char* variable :
       {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"}) {
    if (const char* rank = std::getenv(variable)) return std::string(rank);
  }
  return std::nullopt;
}

bool is_first_process() {
  return launched_rank().value_or("0") == "0";
}

void print(std::string_view text) {
  if (is_first_process()) std::fwrite(text.data(), 1, text.size(), stdout);
}

void complain(std::string_view message) {
  const std::string line = fmt::format("shardmix: {}\n", message);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace shardmix::cli
