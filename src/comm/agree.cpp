#include "comm/agree.hpp"

#include <fmt/format.h>

#include <array>
#include <string>

#include "shardmix/error.hpp"

namespace shardmix::comm {
namespace {

enum class Kind : char {
  none = '-',
  error = 'e',
  config = 'c',
  comm = 'm',
  device = 'd',
  checkpoint = 'h'
};

struct Failure {
  Kind kind = Kind::none;
  std::string message;
};

Failure run(const std::function<void()>& local) {
  try {
    local();
    return {};
  } catch (const ConfigError& error) {
    return {Kind::config, error.what()};
  } catch (const CommError& error) {
    return {Kind::comm, error.what()};
  } catch (const DeviceError& error) {
    return {Kind::device, error.what()};
  } catch (const CheckpointError& error) {
    return {Kind::checkpoint, error.what()};
  } catch (const std::exception& error) {
    return {Kind::error, error.what()};
  }
}

[[noreturn]] void raise(Kind kind, const std::string& message) {
  switch (kind) {
    case Kind::config:
      throw ConfigError(message);
    case Kind::comm:
      throw CommError(message);
    case Kind::device:
      throw AgreedDeviceError(message);
    case Kind::checkpoint:
      throw CheckpointError(message);
    default:
      throw Error(message);
  }
}

}  // namespace

void agreed(Collectives& collectives, const std::function<void()>& local) {
  const Failure own = run(local);
  if (collectives.size() == 1) {
    if (own.kind != Kind::none) raise(own.kind, own.message);
    return;
  }
  const bool failed = own.kind != Kind::none;
  std::array<std::int64_t, 2> least{failed ? collectives.rank() : collectives.size(),
                                    failed ? 1 : 0};
  collectives.all_reduce_min(least);
  if (least[0] == collectives.size()) return;
  const int root = static_cast<int>(least[0]);
  const bool all_failed = least[1] == 1;
  std::array<std::int64_t, 2> header{static_cast<std::int64_t>(own.kind),
                                     static_cast<std::int64_t>(own.message.size())};
  collectives.broadcast(std::as_writable_bytes(std::span(header)), root);
  std::string message = own.message;
  message.resize(static_cast<std::size_t>(header[1]));
  collectives.broadcast(std::as_writable_bytes(std::span(message)), root);
  raise(static_cast<Kind>(header[0]),
        all_failed ? message : fmt::format("rank {}: {}", root, message));
}

}  // namespace shardmix::comm
