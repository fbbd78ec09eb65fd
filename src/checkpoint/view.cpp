#include "checkpoint/view.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/boxes.hpp"
#include "checkpoint/contents.hpp"
#include "checkpoint/files.hpp"
#include "checkpoint/hashes.hpp"
#include "checkpoint/hdf5_file.hpp"
#include "checkpoint/parameter_tree.hpp"
#include "checkpoint/values.hpp"
#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

std::set<std::string> array_paths(const CheckpointInfo& info) {
  std::set<std::string> paths;
  for (const CheckpointParameter& parameter : info.parameters) {
    for (const std::string& state : info.states) {
      if (has_values(info, parameter, state)) paths.insert(array_path(parameter, state));
    }
  }
  return paths;
}

/// What is shown of a state of a parameter.
std::vector<VirtualBox> virtual_boxes(const std::vector<ViewedFile>& files,
                                      const CheckpointParameter& parameter,
                                      const std::string& state, const std::vector<Piece>& pieces) {
  const std::string dataset = parameter.trainable ? state_array_name(state) : frozen_value_name;
  std::vector<VirtualBox> all;
  for (const auto& [row, f] : pieces) {
    const ViewedFile& file = files[f];
    const auto elements = static_cast<hsize_t>(
        std::ranges::find(file.contents.arrays, dataset, &ShardContents::Array::name)->elements);
    std::int64_t here = row.here;
    for (const Box& box : boxes_of(parameter.shape, row.offset, row.offset + row.count)) {
      all.push_back({.start = {box.start.begin(), box.start.end()},
                     .count = {box.count.begin(), box.count.end()},
                     .file = file.name,
                     .dataset = dataset,
                     .elements = elements,
                     .here = static_cast<hsize_t>(here)});
      here += box.elements();
    }
  }
  return all;
}

void write_structures(const fs::path& path, const CheckpointInfo& info,
                      const std::vector<ViewedFile>& files) {
  const std::set<std::string> paths = array_paths(info);
  std::vector<ShardIndex> indices;
  for (const ViewedFile& f : files) indices.push_back({f.contents.rows, f.contents.frozen_rows});
  const auto pieces = pieces_by_parameter(info.parameters.size(), indices);
  Hdf5File file = Hdf5File::create(path);
  ParameterTree tree(file, info, "shardmix view");
  nlohmann::json left_out = nlohmann::json::array();
  for (std::size_t p = 0; p < info.parameters.size(); ++p) {
    const CheckpointParameter& parameter = info.parameters[p];
    if (!why_unfit(parameter, paths).empty()) {
      left_out.push_back(parameter.name);
      continue;
    }
    const std::string group = group_path(parameter);
    tree.make_group(group);
    file.write_attribute("dtype", std::string(name_of(parameter.dtype)), group.c_str());
    for (const std::string& state : info.states) {
      if (!has_values(info, parameter, state)) continue;
      file.make_virtual_dataset(array_path(parameter, state).c_str(),
                                {parameter.shape.begin(), parameter.shape.end()},
                                virtual_boxes(files, parameter, state, pieces[p]));
    }
  }
  file.write_attribute("left_out", left_out.dump());
  file.close();
}

/// Of all states.
std::int64_t count_boxes(const CheckpointInfo& info, const ShardContents& contents) {
  std::int64_t boxes = 0;
  for (const auto* rows : {&contents.rows, &contents.frozen_rows}) {
    const std::int64_t states = rows == &contents.rows ? std::ssize(info.states) : 1;
    for (const IndexRow& row : *rows) {
      const auto& shape = info.parameters[static_cast<std::size_t>(row.parameter)].shape;
      boxes += states * std::ssize(boxes_of(shape, row.offset, row.offset + row.count));
    }
  }
  return boxes;
}

/// XXH3-128 of the first `bytes` of a file.
std::string digits128_of(const File& file, std::int64_t bytes,
                         const std::function<void(std::int64_t)>& progress) {
  Hash hash;
  hash.begin(Hash::Width::bits128);
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(chunk_bytes, bytes)));
  for (std::int64_t at = 0; at < bytes; at += chunk_bytes) {
    const std::span chunk =
        std::span(buffer).first(static_cast<std::size_t>(std::min(chunk_bytes, bytes - at)));
    file.read(at, chunk);
    hash.add(chunk);
    if (progress) progress(std::ssize(chunk));
  }
  return hash.digits128();
}

}  // namespace

std::optional<CheckpointView> write_view(const fs::path& directory, const CheckpointInfo& info,
                                         const std::vector<ViewedFile>& files) {
  std::int64_t boxes = 0;
  for (const ViewedFile& file : files) boxes += count_boxes(info, file.contents);
  if (boxes > most_view_boxes) return std::nullopt;
  const fs::path path = directory / view_name;
  write_structures(path, info, files);
  File file = File::open_to_write(path);
  const std::int64_t bytes = file.size();
  const CheckpointView view{
      .name = view_name, .bytes = bytes, .xxh3_128 = digits128_of(file, bytes, {})};
  file.sync();
  file.close();
  return view;
}

void verify_view(const fs::path& directory, const CheckpointView& view,
                 const std::function<void(std::int64_t)>& progress) {
  const fs::path path = directory / view.name;
  const File file = File::open_to_read(path);
  if (file.size() != view.bytes) {
    throw CheckpointError(
        fmt::format("'{}' has {} bytes, but the manifest says {}; the checkpoint is damaged",
                    path.string(), file.size(), view.bytes));
  }
  if (const std::string found = digits128_of(file, view.bytes, progress); found != view.xxh3_128) {
    throw CheckpointError(
        fmt::format("'{}' has the checksum {}, but the manifest says {}; the checkpoint is damaged",
                    path.string(), found, view.xxh3_128));
  }
}

}  // namespace shardmix::checkpoint
