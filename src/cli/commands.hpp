#pragma once

/// The program's commands. Each takes the arguments after its name, prints to standard output and
/// returns the program's exit code; a wrong argument is a ConfigError.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shardmix::cli {

inline constexpr int exit_failure = 1;
inline constexpr int exit_usage = 2;

using Arguments = std::vector<std::string>;

/// `argc` and `argv` are main's: MPI reads them.
[[nodiscard]] int train_command(const Arguments& arguments, int& argc, char**& argv);
[[nodiscard]] int checkpoint_command(const Arguments& arguments);
[[nodiscard]] int import_command(const Arguments& arguments);
[[nodiscard]] int bench_command(const Arguments& arguments, int& argc, char**& argv);

/// The text of `shardmix --help`, `shardmix train --help` and so on.
[[nodiscard]] std::string help();
[[nodiscard]] std::string train_help();
[[nodiscard]] std::string checkpoint_help();
[[nodiscard]] std::string import_help();
[[nodiscard]] std::string bench_help(std::string_view what = "");

/// This process's rank, as far as a launcher's environment (mpirun's, srun's) tells; nothing
/// without one. For output before MPI runs.
[[nodiscard]] std::optional<std::string> launched_rank();
[[nodiscard]] bool is_first_process();

/// Writes `text` to standard output, from the first process alone.
void print(std::string_view text);

/// Writes "shardmix: MESSAGE" to standard error.
void complain(std::string_view message);

}  // namespace shardmix::cli
