// A run that doesn't end by itself, for two minutes: faults_test.py kills, stops and cuts off its
// ranks, or has one throw, and reads what the others say.

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "shardmix/shardmix.hpp"
#ifdef FAULT_PROGRAM_HAS_CUDA
#include <cuda_runtime.h>
#endif

namespace {

using namespace shardmix;
using Clock = std::chrono::steady_clock;

struct Options {
  int deadline = 1500;  ///< in ms
  std::string collectives = "auto";
  unsigned seed = 0;
  int throw_at = 0;  ///< in ms after the first step
  int throw_rank = -1;
  bool hangs = false;           ///< in MPI, instead of throwing
  bool queues = false;          ///< the trainer: on its stream, which it waits for
  int outlives = 0;             ///< the error: nothing, the runtime (1), or the optimizer too (2)
  std::string directory = ".";  ///< rank R writes ready.R and error.R there
};

Options read_options(int argc, char** argv) {
  std::map<std::string, std::string> values;
  for (int i = 1; i + 1 < argc; i += 2) values[argv[i]] = argv[i + 1];
  Options options;
  const auto number = [&](const char* name, auto& value) {
    if (values.contains(name)) value = std::stoi(values[name]);
  };
  number("--deadline", options.deadline);
  number("--seed", options.seed);
  number("--throw-at", options.throw_at);
  number("--throw-rank", options.throw_rank);
  number("--hangs", options.hangs);
  number("--queues", options.queues);
  number("--outlives", options.outlives);
  if (values.contains("--collectives")) options.collectives = values["--collectives"];
  if (values.contains("--directory")) options.directory = values["--directory"];
  return options;
}

std::atomic<bool> mpi_hangs = false;

void maybe_hang() {
  while (mpi_hangs) pause();
}

/// Under its name at once as a whole: time (of CLOCK_MONOTONIC, in seconds) and text.
void report(const Options& options, const std::string& what, int rank, const std::string& text) {
  const std::string path = fmt::format("{}/{}.{}", options.directory, what, rank);
  const std::chrono::duration<double> now = Clock::now().time_since_epoch();
  if (std::FILE* file = std::fopen((path + "~").c_str(), "w")) {
    fmt::print(file, "{:.6f} {}\n", now.count(), text);
    std::fclose(file);
    std::rename((path + "~").c_str(), path.c_str());
  }
}

Parameters some_parameters() {
  Parameters parameters;
  parameters.add("embedding", {300, 512}, bf16);
  for (int layer = 0; layer < 3; ++layer) {
    parameters.add(fmt::format("{}.weight", layer), {256, 200}, bf16);
    parameters.add(fmt::format("{}.bias", layer), {131}, fp32);
  }
  parameters.add("head", {512, 257}, fp32);
  return parameters;
}

class Run {
 public:
  Run(Runtime& runtime, const Options& options)
      : options_(options),
        rank_(runtime.rank()),
        common_(options.seed),
        own_(options.seed * 64 + static_cast<unsigned>(rank_)),
        optimizer_(runtime, some_parameters(), AdEMAMix{},
                   {.seed = options.seed,
                    .bucket_elements = 16384,
                    .micro_batches = 1 + options.seed % 3,
                    .overlap = options.seed % 2 == 1}) {
    for (const Parameter& p : optimizer_.parameters()) names_.push_back(p.name);
    optimizer_.broadcast_parameters();
  }

  [[noreturn]] void steps() {
    for (std::int64_t step = 0;; ++step) {
      const auto micro_batches = 1 + static_cast<int>(common_() % 3);
      for (int m = 1; m < micro_batches; ++m) {
        micro_batch();
        optimizer_.accumulate();
        wait_for_stream();
      }
      micro_batch();
      optimizer_.step();
      wait_for_stream();
      if (step == 0) {
        began_ = Clock::now();
        report(options_, "ready", rank_, "");
      }
    }
  }

 private:
  void micro_batch() {
    optimizer_.wait();
    optimizer_.zero_gradients();
    for (auto name = names_.rbegin(); name != names_.rend(); ++name) {
      set(optimizer_.gradient(*name));
      if (own_() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own_() % 3000));
      if (own_() % 8 != 0) optimizer_.mark_ready(*name);
      maybe_throw();
    }
  }

  void set(const TensorView& gradient) {
#ifdef FAULT_PROGRAM_HAS_CUDA
    if (options_.queues) {
      const auto bytes = static_cast<std::size_t>(gradient.elements * size_of(gradient.dtype));
      if (cudaMemsetAsync(gradient.data, 0, bytes, nullptr) != cudaSuccess)
        throw std::runtime_error("cudaMemsetAsync failed");
      return;
    }
#endif
    optimizer_.write(gradient, gradient.dtype == fp32 ? static_cast<const void*>(singles_.data())
                                                      : halves_.data());
  }

  /// Without end, where it waits for a rank that is gone.
  void wait_for_stream() const {
#ifdef FAULT_PROGRAM_HAS_CUDA
    if (options_.queues && cudaStreamSynchronize(nullptr) != cudaSuccess)
      throw std::runtime_error("cudaStreamSynchronize failed");
#endif
  }

  void maybe_throw() {
    if (rank_ != options_.throw_rank || !began_) return;
    if (Clock::now() - *began_ < std::chrono::milliseconds(options_.throw_at)) return;
    if (own_() % 7 == 0) {
      report(options_, "thrown", rank_, "");
      mpi_hangs = options_.hangs;
      if (!mpi_hangs) throw std::runtime_error("thrown on purpose");
    }
  }

  const Options& options_;
  int rank_;
  std::mt19937 common_;  ///< the same on all ranks
  std::mt19937 own_;
  ShardedOptimizer optimizer_;
  std::vector<std::string> names_;
  std::vector<float> singles_ = std::vector<float>(200'000, 0.25f);
  std::vector<std::uint16_t> halves_ = std::vector<std::uint16_t>(200'000, 0x3e80);  ///< the same
  std::optional<Clock::time_point> began_;
};

}  // namespace

// In front of the MPI library's own (chapter "Profiling interface" of the standard).
extern "C" int MPI_Test(MPI_Request* request, int* flag, MPI_Status* status) {
  maybe_hang();
  return PMPI_Test(request, flag, status);
}

extern "C" int MPI_Testall(int count, MPI_Request* requests, int* flag, MPI_Status* statuses) {
  maybe_hang();
  return PMPI_Testall(count, requests, flag, statuses);
}

extern "C" int MPI_Iprobe(int source, int tag, MPI_Comm communicator, int* flag,
                          MPI_Status* status) {
  maybe_hang();
  return PMPI_Iprobe(source, tag, communicator, flag, status);
}

int main(int argc, char** argv) {
  alarm(120);
  const Options options = read_options(argc, argv);
  const char* device = std::getenv("TEST_DEVICE");
  const bool is_gpu = device != nullptr && std::string_view(device) == "cuda";
  const RuntimeOptions how{.device = is_gpu ? DeviceKind::cuda : DeviceKind::host,
                           .threads = 2,
                           .collectives = options.collectives,
                           .deadline = std::chrono::milliseconds(options.deadline)};
  int rank = -1;
  const auto fail = [&](const std::exception& error) {
    fmt::print(stderr, "rank {}: {}\n", rank, error.what());
    report(options, "error", rank, error.what());
    return 1;
  };
  std::optional<Runtime> outer;
  try {
    if (options.outlives > 0) {
      outer.emplace(argc, argv, how);
      rank = outer->rank();
      Run run(*outer, options);
      try {
        run.steps();
      } catch (const std::exception& error) {
        if (options.outlives > 1) return fail(error);
        throw;
      }
    }
    Runtime runtime(argc, argv, how);
    rank = runtime.rank();
    Run(runtime, options).steps();
  } catch (const std::exception& error) {
    return fail(error);
  }
}
