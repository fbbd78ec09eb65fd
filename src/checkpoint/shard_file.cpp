#include "checkpoint/shard_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

using optimizer::ShardedState;
using optimizer::State;

static_assert(sizeof(IndexRow) == 4 * sizeof(std::int64_t),
              "rows are read and written as they lie in memory");

std::string state_dataset(State state) {
  return fmt::format("/state/{}", name_of(state));
}

/// Writes rows that give each piece its place, one after the other; returns the number of elements.
std::int64_t write_index(Hdf5File& file, const char* name, const std::vector<OwnedPiece>& owned) {
  std::vector<IndexRow> rows;
  std::int64_t here = 0;
  for (const OwnedPiece& o : owned) {
    rows.push_back(
        {static_cast<std::int64_t>(o.piece.parameter), o.piece.offset, here, o.piece.count});
    here += o.piece.count;
  }
  file.make_dataset(name, H5T_NATIVE_INT64, {rows.size(), 4})
      .write(0, std::ssize(rows), rows.data());
  return here;
}

/// Fills a dataset with the values that `fill(piece, range, destination)` gives, through a bounded
/// buffer.
template <class Fill>
void write_pieces(const Dataset& dataset, const std::vector<OwnedPiece>& owned, const Fill& fill) {
  std::vector<float> buffer;
  std::int64_t written = 0;
  const auto flush = [&] {
    dataset.write(written, std::ssize(buffer), buffer.data());
    written += std::ssize(buffer);
    buffer.clear();
  };
  for (const OwnedPiece& o : owned) {
    for (std::int64_t done = 0; done < o.piece.count;) {
      const std::int64_t count =
          std::min(o.piece.count - done, staging_elements - std::ssize(buffer));
      const std::size_t at = buffer.size();
      buffer.resize(at + static_cast<std::size_t>(count));
      const std::int64_t begin = o.piece.begin + done;
      fill(o, layout::Range{begin, begin + count}, buffer.data() + at);
      done += count;
      if (std::ssize(buffer) == staging_elements) flush();
    }
  }
  flush();
}

std::vector<IndexRow> read_index(const Hdf5File& file, const char* name) {
  const Dataset dataset = file.dataset(name, H5T_NATIVE_INT64, 2);
  if (dataset.extents()[1] != 4)
    throw CheckpointError(fmt::format("the dataset '{}' must have 4 columns", name));
  std::vector<IndexRow> rows(dataset.extents()[0]);
  dataset.read(0, std::ssize(rows), rows.data());
  return rows;
}

/// The rows must lie one after the other and fill the dataset.
void require_filled(const std::vector<IndexRow>& rows, const Dataset& dataset,
                    const std::string& name) {
  std::int64_t here = 0;
  for (const IndexRow& row : rows) {
    if (row.here != here || row.count <= 0 || row.parameter < 0 || row.offset < 0 ||
        __builtin_add_overflow(here, row.count, &here)) {
      throw CheckpointError(fmt::format("the index of '{}' is not a sequence of pieces", name));
    }
  }
  if (dataset.extents()[0] != static_cast<hsize_t>(here)) {
    throw CheckpointError(fmt::format("'{}' has {} elements, but its index tells of {}", name,
                                      dataset.extents()[0], here));
  }
}

std::vector<OwnedPiece> pieces_in(const layout::Layout& layout,
                                  const std::vector<layout::Bucket>& buckets, int rank, int size) {
  std::vector<OwnedPiece> owned;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    for (const layout::Piece& piece : layout.pieces(layout::slice(buckets[b], rank, size)))
      owned.push_back({piece, b});
  }
  return owned;
}

}  // namespace

std::vector<OwnedPiece> owned_pieces(const ShardedState& state, int rank, int size) {
  return pieces_in(state.layout(), state.layout().buckets(), rank, size);
}

std::vector<OwnedPiece> owned_frozen_pieces(const ShardedState& state, int rank, int size) {
  return pieces_in(state.layout(), state.layout().frozen_buckets(), rank, size);
}

void write_shard(const std::filesystem::path& path, const ShardedState& state, int rank, int size) {
  Hdf5File file = Hdf5File::create(path);
  const auto owned = owned_pieces(state, rank, size);
  const auto elements = static_cast<hsize_t>(write_index(file, "/index", owned));
  file.make_group("/state");
  for (const State s : optimizer::all_states) {
    if (!state.has(s)) continue;
    const Dataset dataset =
        file.make_dataset(state_dataset(s).c_str(), H5T_NATIVE_FLOAT, {elements});
    write_pieces(dataset, owned, [&](const OwnedPiece& o, layout::Range range, float* to) {
      state.read(s, o.bucket, range, to);
    });
  }
  if (!state.layout().frozen_buckets().empty()) {
    const auto frozen = owned_frozen_pieces(state, rank, size);
    file.make_group("/frozen");
    const auto frozen_elements = static_cast<hsize_t>(write_index(file, "/frozen/index", frozen));
    const Dataset dataset = file.make_dataset("/frozen/value", H5T_NATIVE_FLOAT, {frozen_elements});
    write_pieces(dataset, frozen, [&](const OwnedPiece& o, layout::Range range, float* to) {
      read_frozen(state, state.layout().frozen_buckets()[o.bucket], range, to);
    });
  }
  file.close();
}

ShardReader::ShardReader(const std::filesystem::path& path, const std::vector<std::string>& states)
    : file_(Hdf5File::open(path)), rows_(read_index(file_, "/index")) {
  for (const State s : optimizer::all_states) {
    if (std::ranges::find(states, name_of(s)) == states.end()) continue;
    const std::string name = state_dataset(s);
    auto& dataset = states_[static_cast<std::size_t>(s)];
    dataset = file_.dataset(name.c_str(), H5T_NATIVE_FLOAT, 1);
    require_filled(rows_, *dataset, name);
  }
  if (file_.has("/frozen")) {
    frozen_rows_ = read_index(file_, "/frozen/index");
    frozen_ = file_.dataset("/frozen/value", H5T_NATIVE_FLOAT, 1);
    require_filled(frozen_rows_, *frozen_, "/frozen/value");
  }
}

void ShardReader::read(State state, std::int64_t here, std::int64_t count, float* values) const {
  states_[static_cast<std::size_t>(state)].value().read(here, count, values);
}

void ShardReader::read_frozen(std::int64_t here, std::int64_t count, float* values) const {
  frozen_.value().read(here, count, values);
}

}  // namespace shardmix::checkpoint
