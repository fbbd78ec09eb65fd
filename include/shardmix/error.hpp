#pragma once

/// The exceptions that shardmix throws.
///
/// Every message is a sentence that says what went wrong, where (rank, tensor, file or option),
/// what was expected, what was found and what to do. A failure on one rank is agreed on by all
/// ranks before their next collective, so that each of them throws and none waits for ever.

#include <stdexcept>

namespace shardmix {

/// The base of all of shardmix's exceptions.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An option, hyper-parameter, parameter declaration or call that makes no sense.
class ConfigError : public Error {
  using Error::Error;
};

/// A failed MPI or NCCL call.
class CommError : public Error {
  using Error::Error;
};

/// A failed CUDA call, or a device that this build or machine does not have.
class DeviceError : public Error {
  using Error::Error;
};

/// A checkpoint that can't be written, or that is damaged, incomplete or of another model.
class CheckpointError : public Error {
  using Error::Error;
};

}  // namespace shardmix
