#pragma once

/// HDF5 with every return code checked: a file, and 1-D or 2-D datasets in it. Failures throw
/// CheckpointError with the file, the call and HDF5's own words.

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace shardmix::checkpoint {

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

/// A dataset of fp32 or int64, contiguous and unfiltered.
class Dataset {
 public:
  Dataset(Handle handle, std::filesystem::path file, std::string name, hid_t type,
          std::vector<hsize_t> extents);

  [[nodiscard]] const std::vector<hsize_t>& extents() const noexcept { return extents_; }
  /// Rows [begin, begin + count); `values` holds count times the other extents.
  void write(std::int64_t begin, std::int64_t count, const void* values) const;
  void read(std::int64_t begin, std::int64_t count, void* values) const;

 private:
  template <class Transfer>
  void transfer(std::int64_t begin, std::int64_t count, const char* what,
                const Transfer& call) const;

  Handle handle_;
  std::filesystem::path file_;
  std::string name_;
  hid_t type_;
  std::vector<hsize_t> extents_;
};

class Hdf5File {
 public:
  /// A new file, in a form that can't be opened while a write is unfinished (superblock 3).
  static Hdf5File create(const std::filesystem::path& path);
  static Hdf5File open(const std::filesystem::path& path);

  void make_group(const char* name);
  /// `type` is H5T_NATIVE_FLOAT or H5T_NATIVE_INT64; stored little-endian.
  [[nodiscard]] Dataset make_dataset(const char* name, hid_t type, std::vector<hsize_t> extents);
  /// Refuses a dataset of another type, rank or layout.
  [[nodiscard]] Dataset dataset(const char* name, hid_t type, int rank) const;
  [[nodiscard]] bool has(const char* name) const;

  /// Writes everything out and closes; the file is not yet synced.
  void close();

 private:
  Hdf5File(std::filesystem::path path, Handle file)
      : path_(std::move(path)), file_(std::move(file)) {}

  std::filesystem::path path_;
  Handle file_;
};

}  // namespace shardmix::checkpoint
