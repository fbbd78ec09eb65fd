#include "checkpoint/importer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "checkpoint/crc32.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/values.hpp"
#include "math/bfloat16.hpp"
#include "math/float16.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t chunk_elements = chunk_bytes / 4;

/// Values of tensors, from anywhere in the files, in fp32.
class TensorReader {
 public:
  /// `files` must outlive this.
  explicit TensorReader(const std::vector<SourceFile>& files) : files_(files) {}

  /// The elements from `offset` on. Every conversion is exact.
  void read(const SourceTensor& source, std::int64_t offset, std::span<float> values) {
    const SafetensorsTensor& tensor = source.tensor;
    const File& file = open(source.file);
    const std::int64_t begin = tensor.offset + offset * tensor.type.bytes;
    if (tensor.type == safetensors_f32) {
      file.read(begin, std::as_writable_bytes(values));
      return;
    }
    halves_.resize(values.size());
    file.read(begin, std::as_writable_bytes(std::span(halves_)));
    const auto widen = tensor.type.name == "BF16"
                           ? [](std::uint16_t bits) { return math::float_from_bf16(bits); }
                           : [](std::uint16_t bits) { return math::float_from_fp16(bits); };
    std::ranges::transform(halves_, values.begin(), widen);
  }

 private:
  const File& open(std::size_t file) {
    if (!open_file_ || open_number_ != file) {
      open_file_.emplace(File::open_to_read(files_[file].path));
      open_number_ = file;
    }
    return *open_file_;
  }

  const std::vector<SourceFile>& files_;
  std::optional<File> open_file_;  ///< the one read last: there may be more than a process may
  std::size_t open_number_ = 0;    ///< have open
  std::vector<std::uint16_t> halves_;
};

void check_checksum(const SourceFile& file, const std::function<void(std::int64_t)>& read) {
  const File input = File::open_to_read(file.path);
  input.read_ahead();
  std::vector<std::byte> chunk(static_cast<std::size_t>(chunk_bytes));
  std::uint32_t found = 0;
  for (std::int64_t offset = 0; offset < file.bytes; offset += chunk_bytes) {
    const std::span part = std::span(chunk).first(
        static_cast<std::size_t>(std::min(chunk_bytes, file.bytes - offset)));
    input.read(offset, part);
    found = crc32(part, found);
    read(std::ssize(part));
  }
  if (found != *file.crc32) {
    throw CheckpointError(
        fmt::format("'{}' has the crc32 {:08x}, but its sidecar says {:08x}; it is damaged, or "
                    "belongs to another sidecar: export or copy it anew",
                    file.path.string(), found, *file.crc32));
  }
}

/// Whether all values are zero.
class ValueCheck {
 public:
  ValueCheck(const SourceTensor& source, const SourceFile& file, const std::string& state)
      : source_(source), file_(file), is_square_(state == "v") {}

  void add(std::int64_t offset, std::span<const float> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float value = values[i];
      is_zero_ = is_zero_ && value == 0.0F;
      if (std::isfinite(value) && !(is_square_ && value < 0.0F)) continue;
      throw CheckpointError(fmt::format(
          "element {} of the tensor '{}' of '{}' is {}{}", offset + static_cast<std::int64_t>(i),
          source_.tensor.name, file_.path.string(), value,
          std::isfinite(value) ? ", but it is taken for v, an average of squares, which is never "
                                 "below 0"
                               : ": a run can't go on from that"));
    }
  }
  [[nodiscard]] bool is_zero() const noexcept { return is_zero_; }

 private:
  const SourceTensor& source_;
  const SourceFile& file_;
  bool is_square_;
  bool is_zero_ = true;
};

}  // namespace

void check_values(ImportPlan& plan, const CheckpointProgress& progress) {
  std::int64_t total = value_bytes(plan.info, plan.info.states);
  for (const SourceFile& file : plan.source.files) total += file.crc32 ? file.bytes : 0;
  std::int64_t done = 0;
  const std::function<void(std::int64_t)> add = [&](std::int64_t bytes) {
    done += bytes;
    if (progress) progress(done, total);
  };
  for (const SourceFile& file : plan.source.files) {
    if (file.crc32) check_checksum(file, add);
  }
  TensorReader reader(plan.source.files);
  std::vector<float> chunk(static_cast<std::size_t>(chunk_elements));
  std::int64_t zeros = 0;
  std::string first;
  for (const PlannedParameter& planned : plan.parameters) {
    const std::int64_t elements = planned.parameter.elements();
    for (const auto& [state, tensor] : planned.tensors) {
      ValueCheck check(tensor, plan.source.files[tensor.file], state);
      for (std::int64_t offset = 0; offset < elements; offset += chunk_elements) {
        const std::span part = std::span(chunk).first(
            static_cast<std::size_t>(std::min(chunk_elements, elements - offset)));
        reader.read(tensor, offset, part);
        check.add(offset, part);
        add(4 * std::ssize(part));
      }
      if (state == "v" && elements > 0 && check.is_zero() && zeros++ == 0)
        first = planned.parameter.name;
    }
  }
  if (zeros > 0) {
    plan.warnings.push_back(
        fmt::format("v is zero in every element of {} parameters, '{}' first: were they never "
                    "updated, or was their state lost?",
                    zeros, first));
  }
}

CheckpointInfo write_import(const ImportPlan& plan, const fs::path& run_directory, const Cut& cut,
                            const CheckpointProgress& progress) {
  TensorReader reader(plan.source.files);
  return write_alone(
      plan.info, run_directory, cut,
      [&](std::size_t parameter, std::string_view state, std::int64_t offset,
          std::span<float> values) {
        const auto& tensors = plan.parameters[parameter].tensors;
        const auto found = tensors.find(std::string(state));
        if (found == tensors.end())
          std::ranges::fill(values, 0.0F);
        else
          reader.read(found->second, offset, values);
      },
      progress);
}

}  // namespace shardmix::checkpoint
