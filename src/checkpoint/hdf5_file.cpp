#include "checkpoint/hdf5_file.hpp"

#include <fmt/format.h>

#include <mutex>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// The innermost entry of HDF5's error stack: what really went wrong.
std::string hdf5_reason() {
  std::string reason = "no reason given";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_DOWNWARD,
      [](unsigned, const H5E_error2_t* error, void* text) {
        *static_cast<std::string*>(text) = error->desc != nullptr ? error->desc : "";
        return herr_t{0};
      },
      &reason);
  return reason;
}

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw CheckpointError(
      fmt::format("HDF5 can't {} in '{}': {}", what, file.string(), hdf5_reason()));
}

hid_t checked(hid_t id, const fs::path& file, const std::string& what) {
  if (id < 0) fail(file, what);
  return id;
}

/// Once: errors are thrown and not printed, and a failed close does not crash the program at its
/// end.
void prepare_library() {
  static std::once_flag once;
  std::call_once(once, [] {
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  });
}

Handle access_properties(const fs::path& path) {
  prepare_library();
  Handle properties(checked(H5Pcreate(H5P_FILE_ACCESS), path, "make access properties"), &H5Pclose);
  if (H5Pset_libver_bounds(properties.id(), H5F_LIBVER_V110, H5F_LIBVER_LATEST) < 0 ||
      H5Pset_fclose_degree(properties.id(), H5F_CLOSE_SEMI) < 0) {
    fail(path, "set access properties");
  }
  return properties;
}

/// Each element type has one form in a file.
hid_t stored_type(hid_t type) {
  return H5Tequal(type, H5T_NATIVE_FLOAT) > 0 ? H5T_IEEE_F32LE : H5T_STD_I64LE;
}

}  // namespace

Dataset::Dataset(Handle handle, fs::path file, std::string name, hid_t type,
                 std::vector<hsize_t> extents)
    : handle_(std::move(handle)),
      file_(std::move(file)),
      name_(std::move(name)),
      type_(type),
      extents_(std::move(extents)) {}

template <class Transfer>
void Dataset::transfer(std::int64_t begin, std::int64_t count, const char* what,
                       const Transfer& call) const {
  if (count == 0) return;
  const std::string action =
      fmt::format("{} rows {} to {} of '{}'", what, begin, begin + count, name_);
  std::vector<hsize_t> start(extents_.size(), 0);
  std::vector<hsize_t> length = extents_;
  start[0] = static_cast<hsize_t>(begin);
  length[0] = static_cast<hsize_t>(count);
  const int rank = static_cast<int>(extents_.size());
  const Handle in_file(checked(H5Dget_space(handle_.id()), file_, action), &H5Sclose);
  const Handle in_memory(checked(H5Screate_simple(rank, length.data(), nullptr), file_, action),
                         &H5Sclose);
  if (H5Sselect_hyperslab(in_file.id(), H5S_SELECT_SET, start.data(), nullptr, length.data(),
                          nullptr) < 0 ||
      call(in_memory.id(), in_file.id()) < 0) {
    fail(file_, action);
  }
}

void Dataset::write(std::int64_t begin, std::int64_t count, const void* values) const {
  transfer(begin, count, "write", [&](hid_t memory, hid_t file) {
    return H5Dwrite(handle_.id(), type_, memory, file, H5P_DEFAULT, values);
  });
}

void Dataset::read(std::int64_t begin, std::int64_t count, void* values) const {
  transfer(begin, count, "read", [&](hid_t memory, hid_t file) {
    return H5Dread(handle_.id(), type_, memory, file, H5P_DEFAULT, values);
  });
}

Hdf5File Hdf5File::create(const fs::path& path) {
  const Handle access = access_properties(path);
  return {path, Handle(checked(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access.id()),
                               path, "create the file"),
                       &H5Fclose)};
}

Hdf5File Hdf5File::open(const fs::path& path) {
  const Handle access = access_properties(path);
  return {path,
          Handle(checked(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), path, "open the file"),
                 &H5Fclose)};
}

void Hdf5File::make_group(const char* name) {
  const Handle group(checked(H5Gcreate2(file_.id(), name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                             path_, fmt::format("make the group '{}'", name)),
                     &H5Gclose);
}

Dataset Hdf5File::make_dataset(const char* name, hid_t type, std::vector<hsize_t> extents) {
  const std::string action = fmt::format("make the dataset '{}'", name);
  const Handle space(
      checked(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), path_,
              action),
      &H5Sclose);
  const Handle properties(checked(H5Pcreate(H5P_DATASET_CREATE), path_, action), &H5Pclose);
  // All of it is written below; filling it first would write every byte twice.
  if (H5Pset_layout(properties.id(), H5D_CONTIGUOUS) < 0 ||
      H5Pset_fill_time(properties.id(), H5D_FILL_TIME_NEVER) < 0) {
    fail(path_, action);
  }
  Handle dataset(checked(H5Dcreate2(file_.id(), name, stored_type(type), space.id(), H5P_DEFAULT,
                                    properties.id(), H5P_DEFAULT),
                         path_, action),
                 &H5Dclose);
  return {std::move(dataset), path_, name, type, std::move(extents)};
}

Dataset Hdf5File::dataset(const char* name, hid_t type, int rank) const {
  const std::string action = fmt::format("open the dataset '{}'", name);
  Handle dataset(checked(H5Dopen2(file_.id(), name, H5P_DEFAULT), path_, action), &H5Dclose);
  const Handle stored(checked(H5Dget_type(dataset.id()), path_, action), &H5Tclose);
  const Handle properties(checked(H5Dget_create_plist(dataset.id()), path_, action), &H5Pclose);
  const Handle space(checked(H5Dget_space(dataset.id()), path_, action), &H5Sclose);
  const bool fits = H5Tequal(stored.id(), stored_type(type)) > 0 &&
                    H5Pget_layout(properties.id()) == H5D_CONTIGUOUS &&
                    H5Pget_external_count(properties.id()) == 0 &&
                    H5Sget_simple_extent_ndims(space.id()) == rank;
  if (!fits) {
    throw CheckpointError(fmt::format(
        "the dataset '{}' in '{}' isn't a plain {}-dimensional array of the expected type", name,
        path_.string(), rank));
  }
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  if (H5Sget_simple_extent_dims(space.id(), extents.data(), nullptr) < 0) fail(path_, action);
  return {std::move(dataset), path_, name, type, std::move(extents)};
}

bool Hdf5File::has(const char* name) const {
  return H5Lexists(file_.id(), name, H5P_DEFAULT) > 0;
}

void Hdf5File::close() {
  if (H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) < 0) fail(path_, "write out what is left");
  if (!file_.close_quietly()) fail(path_, "close the file");
}

}  // namespace shardmix::checkpoint
