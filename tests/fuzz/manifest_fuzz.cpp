// The manifest's parser. Where the first byte is odd the rest lacks the checksum, which is put
// there.

#include "checkpoint/hashes.hpp"
#include "checkpoint/manifest.hpp"
#include "fuzz/fuzz.hpp"
#include "shardmix/error.hpp"

using namespace shardmix;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const bool is_signed = input.byte() % 2 == 1;
  std::string text(input.rest());
  if (is_signed) text += ",\n \"xxh3_128\": \"" + checkpoint::digits128_of(text) + "\"\n}\n";
  CheckpointInfo info;
  try {
    info = checkpoint::parse_manifest(text, "somewhere");
  } catch (const CheckpointError&) {
    return 0;
  }
  // As reports do.
  std::int64_t elements = 0;
  for (const CheckpointParameter& parameter : info.parameters) elements += parameter.elements();
  std::int64_t bytes = 0;
  for (const CheckpointFile& file : info.files) bytes += file.bytes;
  for (const MemoryReport& memory : info.memory) bytes += memory.total();
  fuzz::require(elements >= 0 && bytes >= 0, "sums don't overflow");
  const std::string written = checkpoint::manifest_text(info);
  const CheckpointInfo again = checkpoint::parse_manifest(written, "somewhere");
  fuzz::require(checkpoint::manifest_text(again) == written,
                "a manifest that was read and written reads the same");
  return 0;
}
