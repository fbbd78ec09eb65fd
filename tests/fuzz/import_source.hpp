#pragma once

/// Files of tensors that the target `import` describes in lines of text, so that what it reads
/// mostly fits, and what is known of them without the code under test.

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/fuzz.hpp"

namespace shardmix::fuzz {

struct DescribedTensor {
  std::string dtype = {};
  std::vector<std::int64_t> shape = {};
  std::vector<float> values = {};
};

struct DescribedFile {
  std::string name = {};
  std::map<std::string, DescribedTensor> tensors = {};
  std::int64_t bytes = 0;
  std::uint32_t crc32 = 0;
};

/// Writes the file that the lines describe: "NAME DTYPE EXTENT... =VALUE" is a tensor whose
/// elements are this value (or 1), the next one, and so on to the 64th and over again; in F16 and
/// BF16 these are bits. "@KEY TEXT" is metadata.
DescribedFile write_described(const Scratch& scratch, const std::string& name,
                              std::string_view lines);

/// The sidecar with the sizes, and perhaps the checksums, of these files where it speaks of them.
std::string fitted(const std::string& sidecar, const std::vector<DescribedFile>& files,
                   bool with_checksums);

}  // namespace shardmix::fuzz
