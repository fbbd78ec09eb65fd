#include "errors.hpp"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "emulated/api.hpp"
#include "emulation.hpp"
#include "process.hpp"

namespace emulation {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local bool is_in_host_function = false;
std::atomic<int> strict{-1};

bool is_strict() {
  if (strict < 0) strict = setting("EMULATION_STRICT", 1) != 0 ? 1 : 0;
  return strict != 0;
}

}  // namespace

void set_strict(bool is) {
  strict = is ? 1 : 0;
}

void end_with(const std::string& sentence) {
  const std::string line = "emulated GPU: " + sentence + "\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, line.data(), line.size());
  if (!in_device_process()) {
    end_device_process();
    std::abort();
  }
  kill(getppid(), SIGABRT);
  _exit(1);
}

cudaError_t misused(cudaError_t error, const std::string& sentence) {
  if (is_strict()) end_with(sentence);
  return noted(error);
}

cudaError_t noted(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

void set_in_host_function(bool is_in) {
  is_in_host_function = is_in;
}

cudaError_t enter(const char* call) {
  if (is_in_host_function) {
    return misuse(cudaErrorNotPermitted,
                  "{} was called from a host function of a stream, which may not call CUDA", call);
  }
  if (!is_host()) {
    return misuse(cudaErrorInitializationError,
                  "{} was called in a process that was forked from one with a GPU; start a new "
                  "program instead",
                  call);
  }
  check_other_process();
  return cudaSuccess;
}

}  // namespace emulation

using emulation::last_error;

extern "C" {

cudaError_t cudaPeekAtLastError() {
  return last_error;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

#define EMULATED_ERRORS(EACH)                                                                      \
  EACH(cudaSuccess, "no error")                                                                    \
  EACH(cudaErrorInvalidValue, "invalid argument")                                                  \
  EACH(cudaErrorMemoryAllocation, "out of memory")                                                 \
  EACH(cudaErrorInitializationError, "initialization error")                                       \
  EACH(cudaErrorCudartUnloading, "driver shutting down")                                           \
  EACH(cudaErrorInvalidConfiguration, "invalid configuration argument")                            \
  EACH(cudaErrorInvalidDevicePointer, "invalid device pointer")                                    \
  EACH(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                       \
  EACH(cudaErrorInvalidDeviceFunction, "invalid device function")                                  \
  EACH(cudaErrorNoDevice, "no CUDA-capable device is detected")                                    \
  EACH(cudaErrorInvalidDevice, "invalid device ordinal")                                           \
  EACH(cudaErrorDeviceUninitialized, "invalid device context")                                     \
  EACH(cudaErrorMapBufferObjectFailed, "mapping of buffer object failed")                          \
  EACH(cudaErrorAlreadyMapped, "resource already mapped")                                          \
  EACH(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices")   \
  EACH(cudaErrorOperatingSystem, "OS call failed or operation not supported on this OS")           \
  EACH(cudaErrorInvalidResourceHandle, "invalid resource handle")                                  \
  EACH(cudaErrorIllegalState, "the operation cannot be performed in the present state")            \
  EACH(cudaErrorNotReady, "device not ready")                                                      \
  EACH(cudaErrorIllegalAddress, "an illegal memory access was encountered")                        \
  EACH(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                   \
  EACH(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled")                        \
  EACH(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled")                          \
  EACH(cudaErrorHostMemoryAlreadyRegistered,                                                       \
       "part or all of the requested memory range is already mapped")                              \
  EACH(cudaErrorHostMemoryNotRegistered,                                                           \
       "pointer does not correspond to a registered memory region")                                \
  EACH(cudaErrorMisalignedAddress, "misaligned address")                                           \
  EACH(cudaErrorLaunchFailure, "unspecified launch failure")                                       \
  EACH(cudaErrorNotPermitted, "operation not permitted")                                           \
  EACH(cudaErrorNotSupported, "operation not supported")                                           \
  EACH(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")      \
  EACH(cudaErrorStreamCaptureInvalidated,                                                          \
       "operation failed due to a previous error during capture")                                  \
  EACH(cudaErrorStreamCaptureMerge,                                                                \
       "operation would result in a merge of separate capture sequences")                          \
  EACH(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")    \
  EACH(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                       \
  EACH(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream") \
  EACH(cudaErrorStreamCaptureImplicit,                                                             \
       "operation would make the legacy stream depend on a capturing blocking stream")             \
  EACH(cudaErrorCapturedEvent,                                                                     \
       "operation not permitted on an event last recorded in a capturing stream")                  \
  EACH(cudaErrorStreamCaptureWrongThread,                                                          \
       "attempt to terminate a thread-local capture sequence from another thread")

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define EMULATED_NAME(name, text) \
  case name:                      \
    return #name;
    EMULATED_ERRORS(EMULATED_NAME)
#undef EMULATED_NAME
    default:
      return "unrecognized error code";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define EMULATED_TEXT(name, text) \
  case name:                      \
    return text;
    EMULATED_ERRORS(EMULATED_TEXT)
#undef EMULATED_TEXT
    default:
      return "unrecognized error code";
  }
}

}  // extern "C"
