#pragma once

/// Files of HDF5, written with every return code checked. Failures throw CheckpointError with the
/// file, the call and HDF5's own words.
///
/// HDF5 makes a file's structures; the bulk of the values is written to its place without it, at
/// the disk's speed and hashed on the way. Nothing is ever read through HDF5: what came damaged, or
/// from a stranger, never reaches its parsers.

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace shardmix::checkpoint {

/// A box of a virtual dataset, and where its values are: in a row of a one-dimensional dataset of
/// another file.
struct VirtualBox {
  std::vector<hsize_t> start = {};  ///< in each dimension
  std::vector<hsize_t> count = {};
  std::string file = {};  ///< its name beside this one
  std::string dataset = {};
  hsize_t elements = 0;  ///< of that dataset
  hsize_t here = 0;      ///< the first one of the box
};

/// An HDF5 identifier and how it is closed.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) noexcept : id_(id), close_(close) {}
  ~Handle() { (void)close_quietly(); }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }

  [[nodiscard]] hid_t id() const noexcept { return id_; }
  /// Closes now; false if HDF5 reported a failure.
  [[nodiscard]] bool close_quietly() noexcept {
    const hid_t id = std::exchange(id_, -1);
    return id < 0 || close_(id) >= 0;
  }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

class Hdf5File {
 public:
  /// A new file, in a form that can't be opened while a write is unfinished (superblock 3). All of
  /// HDF5's own structures lie at its beginning.
  static Hdf5File create(const std::filesystem::path& path);

  void make_group(const char* name);
  /// An attribute of the file itself, or of a group: text in UTF-8 of variable length, or a number.
  void write_attribute(const char* name, const std::string& text, const char* group = "/");
  void write_attribute(const char* name, std::int64_t number);
  /// A contiguous, unfiltered dataset of `type` (H5T_NATIVE_FLOAT or H5T_NATIVE_INT64), stored
  /// little-endian. Its values are `values`, or come later, past HDF5. Returns the offset in the
  /// file where they lie; nothing where it has none.
  std::optional<std::int64_t> make_dataset(const char* name, hid_t type,
                                           const std::vector<hsize_t>& extents,
                                           const void* values = nullptr);

  /// A dataset of floats that lie in other files; what those lack reads as NaN.
  void make_virtual_dataset(const char* name, const std::vector<hsize_t>& extents,
                            const std::vector<VirtualBox>& boxes);

  /// Writes everything out and closes; the file is not yet synced.
  void close();

 private:
  Hdf5File(std::filesystem::path path, Handle file)
      : path_(std::move(path)), file_(std::move(file)) {}
  void write_attribute(const char* name, const char* group, hid_t type, hid_t memory_type,
                       const void* value);

  std::filesystem::path path_;
  Handle file_;
};

}  // namespace shardmix::checkpoint
