#include "checkpoint/values.hpp"

#include <algorithm>
#include <iterator>

namespace shardmix::checkpoint {
namespace {

void add_runs(std::vector<Run>& runs, const CheckpointArray& array,
              const std::vector<IndexRow>& rows, const std::string& state, const TakeValues& take) {
  for (const IndexRow& row : rows) {
    runs.push_back(
        {.offset = array.offset + 4 * row.here,
         .count = row.count,
         .take = [&take, &state, row](std::int64_t begin, std::span<const float> values) {
           take(static_cast<std::size_t>(row.parameter), state, row.offset + begin, values);
         }});
  }
}

}  // namespace

bool has_values(const CheckpointInfo& info, const CheckpointParameter& parameter,
                std::string_view state) {
  if (!parameter.trainable) return state == master_name;
  return std::ranges::find(info.states, state) != info.states.end();
}

void read_values(const OpenCheckpoint& checkpoint, const std::vector<std::string>& states,
                 const TakeValues& take) {
  for (std::size_t f = 0; f < checkpoint.info.files.size(); ++f) {
    const CheckpointFile& file = checkpoint.info.files[f];
    const ShardIndex& index = checkpoint.indices[f];
    std::vector<Run> runs;
    for (const std::string& state : states) {
      if (const CheckpointArray* array = find_array(file, state_array_name(state)))
        add_runs(runs, *array, index.rows, state, take);
      if (const CheckpointArray* array = find_array(file, frozen_value_name);
          array != nullptr && state == master_name)
        add_runs(runs, *array, index.frozen_rows, state, take);
    }
    std::ranges::sort(runs, {}, &Run::offset);
    read_runs(checkpoint.info.directory, file, runs, blocks_of(file, runs));
  }
}

std::int64_t value_bytes(const CheckpointInfo& info, const std::vector<std::string>& states) {
  std::int64_t bytes = 0;
  for (const CheckpointParameter& parameter : info.parameters) {
    for (const std::string& state : states)
      bytes += has_values(info, parameter, state) ? 4 * parameter.elements() : 0;
  }
  return bytes;
}

ValueReader::ValueReader(const OpenCheckpoint& checkpoint)
    : checkpoint_(checkpoint),
      pieces_(pieces_by_parameter(checkpoint.info.parameters.size(), checkpoint.indices)) {}

void ValueReader::read(std::size_t parameter, std::string_view state, std::int64_t offset,
                       std::span<float> values) {
  const bool is_frozen = !checkpoint_.info.parameters[parameter].trainable;
  const std::string name = is_frozen ? frozen_value_name : state_array_name(state);
  const std::vector<Piece>& pieces = pieces_[parameter];
  // The last piece that begins at or before the offset.
  auto piece = std::prev(std::ranges::upper_bound(
      pieces, offset, {}, [](const Piece& candidate) { return candidate.row.offset; }));
  for (; !values.empty(); ++piece) {
    const IndexRow& row = piece->row;
    const std::int64_t skipped = offset - row.offset;
    const std::int64_t count = std::min(row.count - skipped, std::ssize(values));
    const CheckpointArray* array = find_array(checkpoint_.info.files[piece->file], name);
    const std::span part = values.first(static_cast<std::size_t>(count));
    open(piece->file).read(array->offset + 4 * (row.here + skipped), std::as_writable_bytes(part));
    values = values.subspan(part.size());
    offset += count;
  }
}

const File& ValueReader::open(std::size_t file) {
  if (!open_file_ || open_number_ != file) {
    const CheckpointInfo& info = checkpoint_.info;
    open_file_.emplace(File::open_to_read(info.directory / info.files[file].name));
    open_number_ = file;
  }
  return *open_file_;
}

}  // namespace shardmix::checkpoint
