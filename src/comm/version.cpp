#include "shardmix/version.hpp"

namespace shardmix {

const char* version() noexcept {
  return SHARDMIX_VERSION;
}

std::string build_description() {
  return "shardmix " SHARDMIX_VERSION " (" SHARDMIX_BUILT_WITH ")";
}

}  // namespace shardmix
