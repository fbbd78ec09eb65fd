#pragma once

/// The reference model: a decoder-only GPT on bytes, computed by LibTorch. This header is free of
/// LibTorch.
///
/// Its tensors are views into a ShardedOptimizer's buffers. Autograd adds gradients to the
/// optimizer's gradient buffer and reads weights from its parameter buffer; nothing is copied
/// between the two.

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>

#include "shardmix/optimizer.hpp"
#include "train/model_shape.hpp"

namespace shardmix::train {

/// LibTorch failed on this rank, and the other ranks don't know of it.
class LocalError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Tokens of some sequences: each `context` inputs and the one that follows them, one byte a token.
struct TokenWindows {
  std::span<const std::uint8_t> tokens;  ///< sequences x (context + 1)
  std::int64_t sequences = 0;
};

class Gpt {
 public:
  /// Views into `optimizer`, whose parameters must be those of declare_parameters(shape, ...), and
  /// which must outlive this object. Throws ConfigError where LibTorch can't compute on the device.
  Gpt(const ModelShape& shape, ShardedOptimizer& optimizer, DeviceKind device, int threads);
  ~Gpt();
  Gpt(const Gpt&) = delete;
  Gpt& operator=(const Gpt&) = delete;

  /// Writes the initial values of `seed` into this rank's parameters.
  void write_initial_values(std::uint64_t seed);

  /// The sum of the sequences' mean token losses, in nats; adds its gradient, times `scale`, to the
  /// optimizer's gradients, and marks each as ready as soon as it is complete. No sequences: 0, and
  /// nothing is marked. Throws LocalError.
  double backward(const TokenWindows& windows, double scale);

  /// The same sum, without a gradient.
  [[nodiscard]] double loss(const TokenWindows& windows) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardmix::train
