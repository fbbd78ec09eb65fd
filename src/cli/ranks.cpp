#include "cli/ranks.hpp"

#include <fmt/format.h>

#include <exception>
#include <string>

#include "cli/commands.hpp"
#include "comm/abort.hpp"
#include "comm/agree.hpp"
#include "comm/runtime_impl.hpp"
#include "shardmix/error.hpp"

namespace shardmix::cli {
namespace {

[[noreturn]] void end_all(const Runtime& runtime, const std::exception& error) {
  complain(runtime.size() == 1 ? std::string(error.what())
                               : fmt::format("rank {}: {}", runtime.rank(), error.what()));
  comm::end_process(*runtime.impl().group, error.what(), exit_failure);
}

template <class Type>
bool is(const Error& error) {
  return dynamic_cast<const Type*>(&error) != nullptr;
}

}  // namespace

int run_on_ranks(const Runtime& runtime, const std::function<int()>& work) {
  try {
    return work();
  } catch (const CommError& failure) {
    end_all(runtime, failure);
  } catch (const Error& failure) {
    if (is<DeviceError>(failure) && !is<comm::AgreedDeviceError>(failure))
      end_all(runtime, failure);  // this rank's alone
    if (runtime.is_root()) complain(failure.what());
    return is<ConfigError>(failure) ? exit_usage : exit_failure;
  } catch (const std::exception& failure) {
    end_all(runtime, failure);
  }
}

}  // namespace shardmix::cli
