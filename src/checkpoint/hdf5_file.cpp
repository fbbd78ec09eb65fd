#include "checkpoint/hdf5_file.hpp"

#include <fmt/format.h>

#include <limits>
#include <mutex>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Room for the structures of our few datasets in one piece, which lies first in the file.
constexpr hsize_t most_metadata = 16384;
/// Everything begins at a multiple of this. It is a value's size, so that no value fits into what
/// that leaves free: HDF5 would use gaps again, and arrays would lie in another order than they
/// were made in.
constexpr hsize_t alignment = sizeof(float);

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

/// Errors are thrown and not printed (each thread has a setting of its own), and a failed close
/// does not crash the program at its end.
void prepare_library() {
  static std::once_flag once;
  std::call_once(once, [] { H5dont_atexit(); });
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Handle access_properties(const fs::path& path) {
  prepare_library();
  Handle properties(checked(H5Pcreate(H5P_FILE_ACCESS), path, "make access properties"), &H5Pclose);
  if (H5Pset_libver_bounds(properties.id(), H5F_LIBVER_V110, H5F_LIBVER_LATEST) < 0 ||
      H5Pset_fclose_degree(properties.id(), H5F_CLOSE_SEMI) < 0 ||
      H5Pset_meta_block_size(properties.id(), most_metadata) < 0 ||
      H5Pset_small_data_block_size(properties.id(), 0) < 0 ||
      H5Pset_alignment(properties.id(), 1, alignment) < 0) {
    fail(path, "set access properties");
  }
  return properties;
}

/// Without times: the same state gives the same bytes.
Handle creation_properties(hid_t object, const fs::path& path) {
  Handle properties(checked(H5Pcreate(object), path, "make creation properties"), &H5Pclose);
  if (H5Pset_obj_track_times(properties.id(), false) < 0) fail(path, "set creation properties");
  return properties;
}

/// Names are UTF-8.
Handle link_properties(const fs::path& path) {
  Handle properties(checked(H5Pcreate(H5P_LINK_CREATE), path, "make link properties"), &H5Pclose);
  if (H5Pset_char_encoding(properties.id(), H5T_CSET_UTF8) < 0) fail(path, "set link properties");
  return properties;
}

/// Without extents: of one element.
Handle simple_space(const std::vector<hsize_t>& extents, const fs::path& path) {
  return {checked(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), path,
                  "describe a shape"),
          &H5Sclose};
}

/// All of a space without extents.
void select_box(hid_t space, const std::vector<hsize_t>& start, const std::vector<hsize_t>& count,
                const fs::path& path) {
  const std::vector<hsize_t> once(start.size(), 1);
  if (!start.empty() && H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr,
                                            once.data(), count.data()) < 0) {
    fail(path, "select a box");
  }
}

hsize_t volume(const std::vector<hsize_t>& count) {
  hsize_t elements = 1;
  for (const hsize_t c : count) elements *= c;
  return elements;
}

/// Each element type has one form in a file.
hid_t stored_type(hid_t type) {
  return H5Tequal(type, H5T_NATIVE_FLOAT) > 0 ? H5T_IEEE_F32LE : H5T_STD_I64LE;
}

}  // namespace

Hdf5File Hdf5File::create(const fs::path& path) {
  const Handle access = access_properties(path);
  const Handle properties = creation_properties(H5P_FILE_CREATE, path);
  return {path, Handle(checked(H5Fcreate(path.c_str(), H5F_ACC_EXCL, properties.id(), access.id()),
                               path, "create the file"),
                       &H5Fclose)};
}

void Hdf5File::make_group(const char* name) {
  const Handle properties = creation_properties(H5P_GROUP_CREATE, path_);
  const Handle link = link_properties(path_);
  const Handle group(checked(H5Gcreate2(file_.id(), name, link.id(), properties.id(), H5P_DEFAULT),
                             path_, fmt::format("make the group '{}'", name)),
                     &H5Gclose);
}

void Hdf5File::write_attribute(const char* name, const char* group, hid_t type, hid_t memory_type,
                               const void* value) {
  const std::string action = fmt::format("write the attribute '{}' of '{}'", name, group);
  const Handle space(checked(H5Screate(H5S_SCALAR), path_, action), &H5Sclose);
  Handle attribute(checked(H5Acreate_by_name(file_.id(), group, name, type, space.id(), H5P_DEFAULT,
                                             H5P_DEFAULT, H5P_DEFAULT),
                           path_, action),
                   &H5Aclose);
  if (H5Awrite(attribute.id(), memory_type, value) < 0 || !attribute.close_quietly())
    fail(path_, action);
}

void Hdf5File::write_attribute(const char* name, const std::string& text, const char* group) {
  const std::string action = fmt::format("make the type of the attribute '{}'", name);
  const Handle type(checked(H5Tcopy(H5T_C_S1), path_, action), &H5Tclose);
  if (H5Tset_size(type.id(), H5T_VARIABLE) < 0 || H5Tset_cset(type.id(), H5T_CSET_UTF8) < 0)
    fail(path_, action);
  const char* value = text.c_str();
  write_attribute(name, group, type.id(), type.id(), static_cast<const void*>(&value));
}

void Hdf5File::write_attribute(const char* name, std::int64_t number) {
  write_attribute(name, "/", H5T_STD_I64LE, H5T_NATIVE_INT64, &number);
}

std::optional<std::int64_t> Hdf5File::make_dataset(const char* name, hid_t type,
                                                   const std::vector<hsize_t>& extents,
                                                   const void* values) {
  const std::string action = fmt::format("make the dataset '{}'", name);
  const Handle space = simple_space(extents, path_);
  const Handle properties = creation_properties(H5P_DATASET_CREATE, path_);
  // All of it is written later; filling it first would write every byte twice.
  if (H5Pset_layout(properties.id(), H5D_CONTIGUOUS) < 0 ||
      H5Pset_alloc_time(properties.id(), H5D_ALLOC_TIME_EARLY) < 0 ||
      H5Pset_fill_time(properties.id(), H5D_FILL_TIME_NEVER) < 0) {
    fail(path_, action);
  }
  const Handle link = link_properties(path_);
  Handle dataset(checked(H5Dcreate2(file_.id(), name, stored_type(type), space.id(), link.id(),
                                    properties.id(), H5P_DEFAULT),
                         path_, action),
                 &H5Dclose);
  if (values != nullptr && H5Dwrite(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)
    fail(path_, fmt::format("write the dataset '{}'", name));
  const haddr_t offset = H5Dget_offset(dataset.id());
  if (!dataset.close_quietly()) fail(path_, action);
  if (offset == HADDR_UNDEF) return std::nullopt;
  return static_cast<std::int64_t>(offset);
}

void Hdf5File::make_virtual_dataset(const char* name, const std::vector<hsize_t>& extents,
                                    const std::vector<VirtualBox>& boxes) {
  const std::string action = fmt::format("make the virtual dataset '{}'", name);
  const Handle space = simple_space(extents, path_);
  const Handle properties = creation_properties(H5P_DATASET_CREATE, path_);
  const float missing = std::numeric_limits<float>::quiet_NaN();
  if (H5Pset_layout(properties.id(), H5D_VIRTUAL) < 0 ||
      H5Pset_fill_value(properties.id(), H5T_NATIVE_FLOAT, &missing) < 0) {
    fail(path_, action);
  }
  for (const VirtualBox& box : boxes) {
    const Handle source = simple_space({box.elements}, path_);
    select_box(source.id(), {box.here}, {volume(box.count)}, path_);
    select_box(space.id(), box.start, box.count, path_);
    if (H5Pset_virtual(properties.id(), space.id(), box.file.c_str(), box.dataset.c_str(),
                       source.id()) < 0)
      fail(path_, action);
  }
  const Handle link = link_properties(path_);
  Handle dataset(checked(H5Dcreate2(file_.id(), name, stored_type(H5T_NATIVE_FLOAT), space.id(),
                                    link.id(), properties.id(), H5P_DEFAULT),
                         path_, action),
                 &H5Dclose);
  if (!dataset.close_quietly()) fail(path_, action);
}

void Hdf5File::close() {
  if (H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) < 0) fail(path_, "write out what is left");
  if (!file_.close_quietly()) fail(path_, "close the file");
}

}  // namespace shardmix::checkpoint
