// Saves with faults, and loads what they leave; crash_test.py runs it and judges.
//   save HOW BASE RANK AT ACTION [LOG]   saves an old state, then a new one with a fault
//   errors HOW BASE FIRST STRIDE         errors at every STRIDE-th operation of a save
//   mend HOW BASE FIRST STRIDE           the same on rank 0, and another save, all in BASE/AT.log
//   room HOW BASE FIRST LAST STRIDE      saves where so many KiB are free
//   limit HOW BASE FIRST LAST STRIDE     saves where one rank, or all, may write so large files
//   load LIST                            resumes from each directory that LIST names
// HOW is next, or again (the new state has the step of the old one, and takes its place; the run's
// directory is there already), with -shared if two ranks share a file, and -background if it is
// saved so. RANK is -1 for all. The run's directory is BASE/run.

#include <fmt/format.h>
#include <mpi.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "faults/shim.h"
#include "optimizer/optimizer_impl.hpp"
#include "shardmix/shardmix.hpp"
#include "support/fixture.hpp"

namespace {

using namespace shardmix;
namespace fs = std::filesystem;

struct How {
  explicit How(std::string_view text)
      : again(text.starts_with("again")),
        background(text.ends_with("-background")),
        options{.keep_last = 1, .ranks_per_file = text.find("-shared") != text.npos ? 2 : 1} {}
  bool again;
  bool background;
  CheckpointOptions options;
};

std::uint64_t mixed(std::uint64_t hash, std::uint64_t with) {
  hash = (hash ^ with) * 0x9e3779b97f4a7c15;
  return hash ^ (hash >> 29);
}

std::uint64_t sum_over_ranks(std::uint64_t own) {
  std::uint64_t sum = 0;
  MPI_Allreduce(&own, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
  return sum;
}

/// A model and its optimizer.
struct Training {
  explicit Training(Runtime& runtime)
      : rank(runtime.rank()),
        optimizer(runtime, parameters(), AdEMAMix{.lr = 0.01, .beta3 = 0.99},
                  {.bucket_elements = 1536}) {
    shardmix::testing::start(optimizer, runtime.rank());
  }

  static Parameters parameters() {
    Parameters all;
    all.add("scalar", {}, bf16);
    all.add("prime", {251}, bf16);
    all.add("frozen", {30}, bf16, {.trainable = false});
    all.add("matrix", {30, 25}, bf16);
    return all;
  }

  /// Gradients of another `stream` lead to another state.
  void train(int steps, std::uint32_t stream) {
    for (int i = 0; i < steps; ++i) {
      shardmix::testing::write_gradients(
          optimizer, static_cast<std::uint32_t>(optimizer.clocks().step + 1), stream);
      optimizer.step();
    }
  }

  /// Of every bit that a checkpoint holds, whatever the number of ranks. Collective.
  std::uint64_t digest() {
    const optimizer::ShardedState& state = optimizer.impl().state;
    std::uint64_t sum = 0;
    const auto add = [&](std::uint64_t what, std::uint64_t parameter, std::int64_t element,
                         float value) {
      const auto bits = std::bit_cast<std::uint32_t>(value);
      sum +=
          mixed(mixed(mixed(mixed(1, what), parameter), static_cast<std::uint64_t>(element)), bits);
    };
    for (const optimizer::State s : optimizer::all_states) {
      if (!state.has(s)) continue;
      for (std::size_t b = 0; b < state.shard().slices.size(); ++b) {
        for (const layout::Piece& piece : state.layout().pieces(state.shard().slices[b].range)) {
          std::vector<float> values(static_cast<std::size_t>(piece.count));
          state.read(s, b, {piece.begin, piece.begin + piece.count}, values.data());
          for (std::int64_t i = 0; i < piece.count; ++i) {
            add(static_cast<std::uint64_t>(s), piece.parameter, piece.offset + i,
                values[static_cast<std::size_t>(i)]);
          }
        }
      }
    }
    std::uint64_t number = 0;
    for (const Parameter& p : optimizer.parameters()) {
      const shardmix::testing::OnHost host(optimizer, optimizer.parameter(p.name));
      const TensorView& view = host.view();
      ++number;
      for (std::int64_t i = 0; rank == 0 && i < view.elements; ++i)
        add(100, number, i, static_cast<float>(shardmix::testing::value_of(view, i)));
    }
    const Clocks clocks = optimizer.clocks();
    if (rank == 0) {
      sum += mixed(mixed(static_cast<std::uint64_t>(clocks.step),
                         static_cast<std::uint64_t>(clocks.updates)),
                   static_cast<std::uint64_t>(clocks.slow_step));
    }
    return sum_over_ranks(sum);
  }

  int rank;
  ShardedOptimizer optimizer;
};

class Program {
 public:
  explicit Program(Runtime& runtime) : runtime_(runtime), loaded_(runtime) {
    pids_.resize(static_cast<std::size_t>(runtime.size()));
    const pid_t own = getpid();
    static_assert(sizeof(pid_t) == sizeof(int));
    MPI_Allgather(&own, 1, MPI_INT, pids_.data(), 1, MPI_INT, MPI_COMM_WORLD);
  }

  void save(const How& how, const fs::path& base, int rank, long at, const std::string& action,
            const std::string& log) {
    Pair pair(runtime_, how);
    FaultPlan plan = fault(base, rank, at, action);
    FaultPlan none = plan;
    none.action = FAULT_NONE;
    if (!log.empty()) none.log = plan.log = log.c_str();
    faults_arm(&none);
    make_run_directory(how, base);
    (void)save_one(how, pair.old_one, base, "old");
    mark("old");
    say("old {}", pair.old_digest);
    say("new {}", pair.new_digest);
    faults_arm(&plan);
    (void)save_one(how, pair.new_one, base, "new");
    mark("new");
    char struck[16];
    const long count = faults_disarm(struck);
    for (int r = 0; r < runtime_.size(); ++r) {
      long of_rank = count;
      MPI_Bcast(&of_rank, 1, MPI_LONG, r, MPI_COMM_WORLD);
      say("ops {} {}", r, of_rank);
    }
  }

  void errors(const How& how, const fs::path& base, long first, long stride) {
    for (const std::string action : {"ENOSPC", "EIO", "EINTR", "full", "broken", "short"}) {
      for (int rank = runtime_.size() == 1 ? 0 : -1; rank < runtime_.size(); ++rank) {
        for (long at = first;; at += stride) {
          const FaultPlan plan = fault(base, rank, at, action);
          std::string struck;
          const std::string outcome = run_case(
              how, base, [&] { faults_arm(&plan); }, [&] { struck = disarm(); });
          if (struck == "-") {
            if (outcome != "success new") say("WRONG without a fault: {}", outcome);
            break;
          }
          say("case {} {} {} {} {}", action, rank, at, struck, outcome);
        }
      }
    }
  }

  void mend(const How& how, const fs::path& base, long first, long stride) {
    for (long at = first;; at += stride) {
      const fs::path own = base / std::to_string(at);
      if (runtime_.rank() == 0) fs::create_directory(own);
      Pair pair(runtime_, how);
      const std::string log = own.string() + ".log";
      FaultPlan plan = fault(own, 0, at, "EIO");
      plan.log = log.c_str();
      FaultPlan none = plan;
      none.action = FAULT_NONE;
      faults_arm(&none);
      make_run_directory(how, own);
      (void)save_one(how, pair.old_one, own, "old");
      mark("old");
      faults_arm(&plan);
      const std::string outcome = save_one(how, pair.new_one, own, "new");
      mark(outcome.c_str());
      const std::string struck = disarm();
      if (struck == "-") break;
      say("case {} {} {}", at, struck, outcome);
      faults_arm(&none);
      pair.new_one.train(1, 1);
      say("later {}", pair.new_one.digest());
      (void)save_one(How("next"), pair.new_one, own, "later");
      mark("later");
      (void)disarm();
      say("old {}", pair.old_digest);
      say("new {}", pair.new_digest);
    }
  }

  void limit(const How& how, const fs::path& base, long first, long last, long stride) {
    rlimit usual{};
    getrlimit(RLIMIT_FSIZE, &usual);
    for (int rank = runtime_.size() == 1 ? 0 : -1; rank < runtime_.size(); ++rank) {
      for (long bytes = first; bytes <= last; bytes += stride) {
        const rlimit small{.rlim_cur = static_cast<rlim_t>(bytes), .rlim_max = usual.rlim_max};
        const auto begin = [&] {
          if (rank < 0 || rank == runtime_.rank()) setrlimit(RLIMIT_FSIZE, &small);
        };
        const auto end = [&] { setrlimit(RLIMIT_FSIZE, &usual); };
        say("case {} {} {}", rank, bytes, run_case(how, base, begin, end));
      }
    }
  }

  void room(const How& how, const fs::path& base, long first, long last, long stride) {
    for (long kib = first; kib <= last; kib += stride) {
      const fs::path ballast = base / "ballast";
      const auto begin = [&] {
        if (runtime_.rank() == 0) {
          struct statvfs about {};
          statvfs(base.c_str(), &about);
          const auto free = static_cast<long>(about.f_bavail * about.f_bsize / 1024);
          std::ofstream(ballast) << std::string(static_cast<std::size_t>(free - kib) * 1024, 'x');
        }
        MPI_Barrier(MPI_COMM_WORLD);
      };
      const auto end = [&] {
        MPI_Barrier(MPI_COMM_WORLD);
        if (runtime_.rank() == 0) fs::remove(ballast);
      };
      say("case {} {}", kib, run_case(how, base, begin, end));
    }
  }

  /// Writes to LIST.out what each directory loads, a digest, 0, or "refused: ...", and how another
  /// save goes then: "saved", or what is wrong. Where there is a DIRECTORY.log, it goes on there,
  /// and the digest of what was saved is told too.
  void load(const std::string& list) {
    std::ifstream lines(list);
    std::ofstream answers;
    if (runtime_.rank() == 0) answers.open(list + ".out");
    for (std::string directory; std::getline(lines, directory);) {
      FaultPlan plan = fault(directory, -1, 0, "none");
      const std::string log = directory + ".log";
      const bool is_logged = fs::exists(log);
      if (is_logged) {
        plan.log = log.c_str();
        faults_arm(&plan);
      }
      std::string answer = resume(directory);
      if (!answer.starts_with("refused")) {
        loaded_.train(1, 2);
        const std::uint64_t digest = loaded_.digest();
        try {
          Checkpoints(runtime_, fs::path(directory) / "run", {.keep_last = 1})
              .save(loaded_.optimizer, "again");
          answer += resume(directory) == std::to_string(digest) ? " saved" : " other";
        } catch (const std::exception& error) {
          answer += fmt::format(" failed: {}", error.what());
        }
        if (is_logged) answer += fmt::format(" {}", digest);
      }
      if (is_logged) {
        mark("again");
        (void)disarm();
      }
      if (runtime_.rank() == 0) answers << answer << '\n' << std::flush;
    }
  }

 private:
  template <class... Arguments>
  void say(fmt::format_string<Arguments...> form, Arguments&&... arguments) {
    if (runtime_.rank() != 0) return;
    fmt::print("{}\n", fmt::format(form, std::forward<Arguments>(arguments)...));
    std::fflush(stdout);
  }

  void mark(const char* text) {
    MPI_Barrier(MPI_COMM_WORLD);
    if (runtime_.rank() == 0) faults_mark(text);
    MPI_Barrier(MPI_COMM_WORLD);
  }

  /// As trainers may: without bringing its name to the disk.
  void make_run_directory(const How& how, const fs::path& base) {
    if (how.again && runtime_.rank() == 0) fs::create_directory(base / "run");
    MPI_Barrier(MPI_COMM_WORLD);
  }

  /// The states of one case.
  struct Pair {
    Pair(Runtime& runtime, const How& how) : old_one(runtime), new_one(runtime) {
      old_one.train(1, 0);
      new_one.train(how.again ? 1 : 2, 1);
      old_digest = old_one.digest();
      new_digest = new_one.digest();
    }
    Training old_one;
    Training new_one;
    std::uint64_t old_digest = 0;
    std::uint64_t new_digest = 0;
  };

  FaultPlan fault(const fs::path& base, int rank, long at, const std::string& action) {
    base_ = base.string();
    FaultPlan plan{.directory = base_.c_str(),
                   .at = rank < 0 || rank == runtime_.rank() ? at : 0,
                   .action = FAULT_NONE,
                   .error = 0,
                   .pids = pids_.data(),
                   .pid_count = static_cast<int>(pids_.size()),
                   .log = nullptr};
    const auto set = [&](const char* name, FaultAction what, int error = 0) {
      if (action == name) plan.action = what, plan.error = error;
    };
    set("kill", FAULT_KILL);
    set("tear", FAULT_TEAR);
    set("kill_all", FAULT_KILL_ALL);
    set("ENOSPC", FAULT_ERROR, ENOSPC);
    set("EIO", FAULT_ERROR, EIO);
    set("EINTR", FAULT_ERROR, EINTR);
    set("full", FAULT_FULL);
    set("broken", FAULT_BROKEN);
    set("short", FAULT_SHORT);
    return plan;
  }

  /// Which operation was struck on any rank, "-" if none.
  std::string disarm() {
    char struck[16];
    (void)faults_disarm(struck);
    std::vector<char> all(16 * pids_.size());
    MPI_Allgather(struck, 16, MPI_CHAR, all.data(), 16, MPI_CHAR, MPI_COMM_WORLD);
    std::string first;
    for (std::size_t r = 0; r < pids_.size() && first.empty(); ++r) first = &all[16 * r];
    return first.empty() ? "-" : first;
  }

  /// "success", "error", or what went otherwise than promised.
  std::string save_one(const How& how, Training& training, const fs::path& base,
                       std::string_view text) {
    std::string own = "success";
    std::string message;
    try {
      Checkpoints checkpoints(runtime_, base / "run", how.options);
      if (how.background) {
        checkpoints.begin_save(training.optimizer, text);
        training.train(1, 3);
        checkpoints.finish();
      } else {
        checkpoints.save(training.optimizer, text);
      }
    } catch (const CheckpointError& error) {
      own = "error";
      message = error.what();
    } catch (const CommError& error) {
      // A rank died. MPI can't go on without it.
      fmt::print(stderr, "{}\n", error.what());
      std::_Exit(3);
    } catch (const std::exception& error) {
      own = "WRONG exception";
      message = error.what();
    }
    const auto failures = sum_over_ranks(own == "success" ? 0 : 1);
    if (failures != 0 && failures != pids_.size()) return "WRONG: not all ranks report";
    if (own.starts_with("WRONG")) return own + ": " + message;
    if (own == "error" && message.size() < 20) return "WRONG: no sentence: " + message;
    message_ = message;
    return own;
  }

  /// The digest of what a resume finds, "0" if nothing.
  std::string resume(const fs::path& base) {
    loaded_.train(1, 4);  // nothing of what it held may pass for what it loads
    Checkpoints checkpoints(runtime_, base / "run", {.keep_last = 1});
    try {
      if (checkpoints.resume(loaded_.optimizer) == 0) return "0";
      return std::to_string(loaded_.digest());
    } catch (const std::exception& error) {
      return fmt::format("refused: {}", error.what());
    }
  }

  static std::ptrdiff_t open_files() {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  }

  /// What training comes to in run_case() after `steps` steps where no save ever was.
  std::uint64_t undisturbed(const How& how, std::int64_t steps) {
    const auto [found, is_new] = undisturbed_.try_emplace(steps, 0);
    if (is_new) {
      Training training(runtime_);
      training.train(how.again ? 1 : 2, 1);
      if (steps - training.optimizer.clocks().step > 1) training.train(1, 3);
      training.train(1, 1);
      found->second = training.digest();
    }
    return found->second;
  }

  /// Saves old, then new between `begin` and `end`, goes on and saves again. "success" or "error",
  /// and "old" or "new": what a loader finds. Otherwise what went wrong.
  template <class Begin, class End>
  std::string run_case(const How& how, const fs::path& base, const Begin& begin, const End& end) {
    Pair pair(runtime_, how);
    if (save_one(How("next"), pair.old_one, base, "old") != "success")
      return "WRONG before the fault: " + message_;
    const auto files = open_files();
    begin();
    std::string outcome = save_one(how, pair.new_one, base, "new");
    end();
    if (!how.background && pair.new_one.digest() != pair.new_digest)
      outcome += " WRONG: the optimizer changed";
    if (open_files() != files) outcome += " WRONG: a file stays open";
    const std::string found = resume(base);
    if (found == std::to_string(pair.new_digest)) {
      outcome += " new";
    } else if (found == std::to_string(pair.old_digest) && outcome != "success") {
      outcome += " old";
    } else {
      outcome += " WRONG: loads " + found;
    }
    const std::string why = message_;
    pair.new_one.train(1, 1);
    const std::uint64_t later = pair.new_one.digest();
    if (later != undisturbed(how, pair.new_one.optimizer.clocks().step))
      outcome += " WRONG: training goes on otherwise";
    if (save_one(How("next"), pair.new_one, base, "later") != "success")
      outcome += " WRONG: the next save fails: " + message_;
    else if (resume(base) != std::to_string(later))
      outcome += " WRONG: the next save doesn't load";
    if (runtime_.rank() == 0) {
      for (const auto& entry : fs::directory_iterator(base / "run")) {
        const std::string name = entry.path().filename().string();
        if (name != "latest" &&
            name != fmt::format("step_{:09}", pair.new_one.optimizer.clocks().step))
          outcome += fmt::format(" WRONG: '{}' is left", name);
      }
      fs::remove_all(base / "run");
    }
    if (outcome.find("WRONG") != std::string::npos) outcome += " (" + why + ")";
    return outcome;
  }

  Runtime& runtime_;
  Training loaded_;
  std::vector<pid_t> pids_;
  std::map<std::int64_t, std::uint64_t> undisturbed_;
  std::string base_;
  std::string message_;
};

}  // namespace

int main(int argc, char** argv) {
  Runtime runtime(argc, argv, {.deadline = std::chrono::seconds(5)});
  std::signal(SIGXFSZ, SIG_IGN);  // a trainer's choice: a file beyond its limit is an error then
  const std::vector<std::string> words(argv + 1, argv + argc);
  Program program(runtime);
  const auto number = [&](std::size_t i) { return std::stol(words.at(i)); };
  const std::string& what = words.at(0);
  if (what == "load") {
    program.load(words.at(1));
    return 0;
  }
  const How how(words.at(1));
  const fs::path base = words.at(2);
  if (what == "save") {
    program.save(how, base, static_cast<int>(number(3)), number(4), words.at(5),
                 words.size() > 6 ? words[6] : "");
  } else if (what == "errors") {
    program.errors(how, base, number(3), number(4));
  } else if (what == "mend") {
    program.mend(how, base, number(3), number(4));
  } else if (what == "limit") {
    program.limit(how, base, number(3), number(4), number(5));
  } else if (what == "room") {
    program.room(how, base, number(3), number(4), number(5));
  }
  return 0;
}
