#include "bench/checkpoint_bench.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <thread>
#include <vector>

#include "bench/model.hpp"
#include "bench/ranks.hpp"
#include "checkpoint/files.hpp"
#include "comm/agree.hpp"
#include "shardmix/checkpoints.hpp"
#include "shardmix/error.hpp"

namespace shardmix::bench {
namespace {

namespace fs = std::filesystem;

/// A directory that all ranks see, gone at the end.
class Directory {
 public:
  Directory(Ranks& ranks, const fs::path& parent) : ranks_(ranks) {
    std::array<char, 16> suffix{};
    comm::agreed(ranks.collectives(), [&] {
      if (!ranks.runtime().is_root()) return;
      checkpoint::unique_suffix().copy(suffix.data(), suffix.size());
      std::error_code error;
      fs::create_directories(parent / name_of(suffix), error);
      if (error) {
        throw ConfigError(fmt::format("can't make a directory in '{}' (--directory): {}",
                                      parent.string(), error.message()));
      }
    });
    ranks.collectives().broadcast(std::as_writable_bytes(std::span(suffix)), 0);
    path_ = parent / name_of(suffix);
  }
  ~Directory() {
    std::error_code ignored;
    if (ranks_.runtime().is_root()) fs::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  [[nodiscard]] const fs::path& path() const noexcept { return path_; }

 private:
  static std::string name_of(const std::array<char, 16>& suffix) {
    return "shardmix-bench-" + std::string(suffix.data(), suffix.size());
  }
  Ranks& ranks_;
  fs::path path_;
};

/// What cp would do with a shard: sequential, and nothing else.
class PlainFile {
 public:
  PlainFile(fs::path path, std::int64_t bytes)
      : path_(std::move(path)), bytes_(bytes), buffer_(std::size_t{8} << 20, std::byte{1}) {}

  void write() {
    fs::remove(path_);
    checkpoint::File file = checkpoint::File::open_to_write(path_);
    for_each_piece([&](std::int64_t at, std::span<std::byte> piece) { file.write(at, piece); });
    file.sync();
    file.close();
  }
  void read() {
    const checkpoint::File file = checkpoint::File::open_to_read(path_);
    for_each_piece([&](std::int64_t at, std::span<std::byte> piece) { file.read(at, piece); });
  }

 private:
  template <class Visit>
  void for_each_piece(const Visit& visit) {
    const std::int64_t most = std::ssize(buffer_);
    for (std::int64_t at = 0; at < bytes_; at += most) {
      visit(at, std::span(buffer_).first(static_cast<std::size_t>(std::min(most, bytes_ - at))));
    }
  }

  fs::path path_;
  std::int64_t bytes_;
  std::vector<std::byte> buffer_;
};

/// The next read comes from the disk.
void forget(const fs::path& directory) {
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    const int file = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    (void)posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
  }
}

class Measurement {
 public:
  Measurement(Ranks& ranks, const CheckpointOptions& options, const Rule& rule,
              const Precision& precision)
      : ranks_(ranks),
        compute_(options.compute),
        directory_(ranks, options.directory),
        optimizer_(ranks.runtime(),
                   flat_model(options.parameters, options.bucket_elements, precision.dtype), rule,
                   optimizer_options(precision, options.bucket_elements, false)),
        checkpoints_(ranks.runtime(), directory_.path() / "run",
                     {.keep_last = 0, .ranks_per_file = options.ranks_per_file}) {
    fill_model(ranks.device(), optimizer_);
    optimizer_.step();
    checkpoints_.begin_save(optimizer_);  // takes its memory, which it keeps
    saved_ = checkpoints_.finish().value();
    const CheckpointInfo info = inspect_checkpoint(saved_);
    for (const CheckpointFile& file : info.files) bytes_ += file.bytes;
    plain_ = std::make_unique<PlainFile>(
        directory_.path() / fmt::format("plain-{}", ranks.runtime().rank()), bytes_ / ranks.size());
    plain_->write();
  }

  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }

  void round() {
    time(
        "plain write", [&] { settle(); }, [&] { plain_->write(); });
    time(
        "save", [&] { clear(); }, [&] { saved_ = checkpoints_.save(optimizer_); });
    time(
        "plain cold read", [&] { forget_all(); }, [&] { plain_->read(); });
    time(
        "cold load", [&] { forget_all(); }, [&] { checkpoints_.load(saved_, optimizer_); });
    time(
        "plain warm read", [&] { plain_->read(); }, [&] { plain_->read(); });
    time(
        "warm load", [&] { checkpoints_.load(saved_, optimizer_); },
        [&] { checkpoints_.load(saved_, optimizer_); });
    time(
        "iteration", [&] { clear(); }, [&] { iterate(); });
    time(
        "iteration with save", [&] { clear(); },
        [&] {
          checkpoints_.begin_save(optimizer_);
          iterate();
        });
    time(
        "background save", [] {}, [&] { saved_ = checkpoints_.finish().value(); });
  }

  [[nodiscard]] double seconds(const std::string& what) const {
    if (what != "stall") return median(times_.at(what));
    return std::max(1e-6,
                    median(times_.at("iteration with save")) - median(times_.at("iteration")));
  }

 private:
  void time(const std::string& what, const std::function<void()>& prepare,
            const std::function<void()>& work) {
    prepare();
    times_[what].push_back(ranks_.time(work));
  }
  /// A pass that leaves the host idle, as a GPU's would, and a step.
  void iterate() {
    std::this_thread::sleep_for(std::chrono::duration<double>(compute_));
    optimizer_.step();
  }
  /// Nothing is on its way to the disk.
  void settle() {
    ranks_.collectives().barrier();
    if (ranks_.runtime().is_root()) sync();
    ranks_.collectives().barrier();
  }
  void clear() {
    ranks_.collectives().barrier();
    if (ranks_.runtime().is_root()) fs::remove_all(saved_);
    settle();
  }
  void forget_all() {
    settle();
    if (ranks_.runtime().is_root()) forget(directory_.path());
  }

  Ranks& ranks_;
  double compute_;
  Directory directory_;
  ShardedOptimizer optimizer_;
  Checkpoints checkpoints_;
  fs::path saved_;
  std::int64_t bytes_ = 0;
  std::unique_ptr<PlainFile> plain_;
  std::map<std::string, std::vector<double>> times_;
};

}  // namespace

void run_checkpoint(const CheckpointOptions& options, const Report& report) {
  Ranks ranks(options.device, options.threads);
  Rule rule;
  std::vector<Precision> precisions;
  comm::agreed(ranks.collectives(), [&] {
    if (options.parameters < 1 || options.rounds < 1) {
      throw ConfigError(
          fmt::format("the bench needs 1 parameter and 1 round, but was given {} and {}",
                      options.parameters, options.rounds));
    }
    rule = rules_named({options.rule}).front();
    precisions = precisions_named({options.precision});
  });
  Measurement measurement(ranks, options, rule, precisions.front());
  for (int r = 0; r < options.rounds; ++r) measurement.round();
  if (!ranks.runtime().is_root()) return;
  constexpr std::array rows{std::pair{"save", "plain write"},
                            std::pair{"cold load", "plain cold read"},
                            std::pair{"warm load", "plain warm read"}, std::pair{"stall", ""},
                            std::pair{"background save", "plain write"}};
  for (const auto& [operation, bound] : rows) {
    report({.operation = operation,
            .rule = options.rule,
            .precision = options.precision,
            .device = ranks.runtime().device_description(),
            .threads = ranks.runtime().threads(),
            .collectives = std::string(ranks.collectives().name()),
            .ranks = ranks.size(),
            .hosts = ranks.topology().nodes,
            .parameters = options.parameters,
            .bytes_per_parameter =
                static_cast<double>(measurement.bytes()) / static_cast<double>(options.parameters),
            .seconds = measurement.seconds(operation),
            .bound_seconds = std::string_view(bound).empty() ? 0.0 : measurement.seconds(bound)});
  }
}

}  // namespace shardmix::bench
