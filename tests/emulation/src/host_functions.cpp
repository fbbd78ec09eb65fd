// Functions of the host that a stream calls: it asks a thread of the host's process, and waits.

#include <pthread.h>

#include <mutex>

#include "counting.hpp"
#include "errors.hpp"
#include "queue.hpp"
#include "streams.hpp"

namespace emulation {
namespace {

std::mutex one_at_a_time;  // in the device process

void ask_host(cudaHostFn_t function, void* data) {
  const std::lock_guard lock(one_at_a_time);
  segment().host_data = data;
  segment().host_function = function;
  ring(segment().bell);
  wait_until(segment().bell, [] { return segment().host_function == nullptr; });
}

void* serve(void* /*nothing*/) {
  set_in_host_function(true);
  for (;;) {
    wait_until(segment().bell, [] { return segment().host_function != nullptr; });
    segment().host_function.load()(segment().host_data);
    segment().host_function = nullptr;
    ring(segment().bell);
  }
}

void start_serving() {
  static const bool is_started = [] {
    pthread_t thread{};
    if (pthread_create(&thread, nullptr, serve, nullptr) != 0)
      fatal("no thread could be started for host functions");
    pthread_detach(thread);
    return true;
  }();
  (void)is_started;
}

}  // namespace
}  // namespace emulation

using namespace emulation;

extern "C" cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  Stream* stream = nullptr;
  EMULATION_TRY(open_stream(handle, "cudaLaunchHostFunc", stream));
  if (function == nullptr)
    return misuse(cudaErrorInvalidValue, "cudaLaunchHostFunc was given no function");
  start_serving();
  count(&Counts::host_functions);
  return submit(*stream, [function, data] { ask_host(function, data); });
}
