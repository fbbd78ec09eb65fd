#include "comm/members.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <optional>
#include <ranges>

namespace shardmix::comm {
namespace {

constexpr std::size_t most_described = 16;

int process_handle(std::int64_t process) {
#if defined(SYS_pidfd_open)
  return static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(process), 0));
#else
  return -1;
#endif
}

/// How a process that is gone ended, where the kernel tells it (Linux 6.15): as waitpid() has it.
std::optional<int> find_exit_status(int handle) {
  // linux/pidfd.h of older systems lacks these.
  struct Info {
    std::uint64_t mask = 0;
    std::uint64_t control_group = 0;
    std::array<std::uint32_t, 11> ids{};
    std::int32_t exit_status = 0;
  };
  static_assert(sizeof(Info) == 64);
  constexpr unsigned long get_info = _IOWR(0xFF, 11, Info);
  constexpr std::uint64_t exit_wanted = 1U << 3U;
  Info info{.mask = exit_wanted};
  if (ioctl(handle, get_info, &info) != 0 || (info.mask & exit_wanted) == 0) return std::nullopt;
  return info.exit_status;
}

/// Whether a process of this node is stopped, by SIGSTOP or a debugger.
bool is_process_stopped(std::int64_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');
  return name_end + 2 < line.size() && (line[name_end + 2] == 'T' || line[name_end + 2] == 't');
}

}  // namespace

Member this_member() {
  Member member;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  member.host = name.data();
  member.process = getpid();
  struct stat space {};
  if (stat("/proc/self/ns/pid", &space) == 0)
    member.process_space = static_cast<std::int64_t>(space.st_ino);
  return member;
}

Members::Members(std::vector<Member> members, int own, const std::vector<int>& neighbours)
    : members_(std::move(members)) {
  const Member& self = members_[static_cast<std::size_t>(own)];
  for (const int r : neighbours) {
    const Member& member = members_[static_cast<std::size_t>(r)];
    if (r == own || member.process_space != self.process_space) continue;
    if (const int handle = process_handle(member.process); handle >= 0) {
      near_.push_back(r);
      handles_.emplace_back(r, handle);
    }
  }
}

Members::~Members() {
  for (const auto& [rank, handle] : handles_) close(handle);
}

std::vector<int> Members::find_dead() const {
  std::vector<pollfd> polled;
  for (const auto& [rank, handle] : handles_) polled.push_back({handle, POLLIN, 0});
  std::vector<int> dead;
  if (polled.empty() || poll(polled.data(), polled.size(), 0) <= 0) return dead;
  for (std::size_t i = 0; i < polled.size(); ++i) {
    if (polled[i].revents != 0) dead.push_back(handles_[i].first);
  }
  return dead;
}

Members::Condition Members::condition(int rank) const {
  const auto found = std::ranges::find(handles_, rank, &std::pair<int, int>::first);
  if (found == handles_.end()) return {};
  if (const auto status = find_exit_status(found->second)) {
    if (WIFSIGNALED(*status)) {
      return {.killed = WTERMSIG(*status) != SIGPIPE,
              .text = fmt::format(", ended by signal {}", WTERMSIG(*status))};
    }
    return {.text = fmt::format(", ended with exit code {}", WEXITSTATUS(*status))};
  }
  if (is_process_stopped(members_[static_cast<std::size_t>(rank)].process))
    return {.stopped = true, .text = ", stopped by a signal"};
  return {};
}

std::string Members::describe(const std::vector<int>& ranks) const {
  std::string text;
  for (const int r : ranks | std::views::take(most_described)) {
    const Member& member = members_[static_cast<std::size_t>(r)];
    text += fmt::format("{}rank {} (host {}, process {}{})", text.empty() ? "" : ", ", r,
                        member.host, member.process, condition(r).text);
  }
  if (ranks.size() > most_described)
    text += fmt::format(" and {} more", ranks.size() - most_described);
  return text;
}

}  // namespace shardmix::comm
