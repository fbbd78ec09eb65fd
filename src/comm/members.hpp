#pragma once

/// The ranks' processes, and what the system knows of those on this node.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace shardmix::comm {

/// A rank's process.
struct Member {
  std::string host;
  std::int64_t process = 0;
  std::int64_t process_space = 0;  ///< in which `process` counts: containers have their own
};

/// This process as its peers may see it.
[[nodiscard]] Member this_member();

class Members {
 public:
  /// Of all ranks; `neighbours` are those of this node, of which `own` is this one.
  Members(std::vector<Member> members, int own, const std::vector<int>& neighbours);
  ~Members();
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  [[nodiscard]] int size() const noexcept { return static_cast<int>(members_.size()); }
  /// The other ranks of which the system tells whether they live.
  [[nodiscard]] const std::vector<int>& near() const noexcept { return near_; }
  [[nodiscard]] std::vector<int> find_dead() const;

  struct Condition {
    bool stopped = false;
    bool killed = false;  ///< by a signal, but not at a broken connection
    std::string text = {};
  };
  /// Nothing of ranks that aren't near.
  [[nodiscard]] Condition condition(int rank) const;
  [[nodiscard]] std::string describe(const std::vector<int>& ranks) const;

 private:
  std::vector<Member> members_;
  std::vector<int> near_;
  std::vector<std::pair<int, int>> handles_;  ///< rank, and what poll() knows of it
};

}  // namespace shardmix::comm
