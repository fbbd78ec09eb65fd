#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checkpoint/export_formats.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/safetensors.hpp"
#include "checkpoint/values.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {

void begin_safetensors(const std::filesystem::path& path, const CheckpointInfo& info,
                       std::vector<ExportArray>& arrays) {
  nlohmann::json header;
  // "pt" is what loaders ask for; it says that the names are those of a model's parameters.
  header[safetensors_metadata_name] = {{"format", "pt"},
                                       {"writer", "shardmix " + info.shardmix_version},
                                       {"step", std::to_string(info.clocks.step)},
                                       {"updates", std::to_string(info.clocks.updates)},
                                       {"slow_step", std::to_string(info.clocks.slow_step)},
                                       {"rule", info.rule},
                                       {"hyper_parameters", info.rule_json}};
  std::int64_t end = 0;
  for (ExportArray& array : arrays) {
    const CheckpointParameter& parameter = info.parameters[array.parameter];
    const std::string name =
        array.state == master_name ? parameter.name : parameter.name + '.' + array.state;
    if (header.contains(name)) {
      throw CheckpointError(
          fmt::format("two tensors would have the name '{}' in a safetensors file, by the names of "
                      "two parameters; export to hdf5, or fewer states, instead",
                      name));
    }
    array.offset = end;
    end += 4 * parameter.elements();
    header[name] = {{"dtype", safetensors_f32.name},
                    {"shape", parameter.shape},
                    {"data_offsets", {array.offset, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the values are aligned
  if (std::ssize(text) > most_safetensors_header) {
    throw CheckpointError(
        fmt::format("the header of a safetensors file would have {} bytes, but readers accept {}; "
                    "export to hdf5, or fewer states, instead",
                    text.size(), most_safetensors_header));
  }
  std::string length(safetensors_length_bytes, '\0');
  for (std::size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<char>(text.size() >> (8 * i) & 255);
  text = length + text;
  for (ExportArray& array : arrays) array.offset += std::ssize(text);
  File file = File::open_to_write(path);
  file.write(0, std::as_bytes(std::span(text)));
  file.close();
}

}  // namespace shardmix::checkpoint
