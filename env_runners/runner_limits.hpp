// RunnerLimits: how much memory and CPU one env-runner process may take. One for each host agent, one thread.
//
// Each slot gets a control group, used by one incarnation after the other:  .../myriad.<run>.<agent>.<slot>
// It lies in the agent's own group, so that what a scheduler allows the job stays in force above it. In cgroup v2 a
// group that holds processes cannot have limited children; there it lies in the nearest group above that can, as long
// as no group left behind has a limit of its own. Without a usable memory controller an rlimit has to do.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace myriad {

/// This process's group in a v1 hierarchy ("memory") or in v2 (""), as /proc/self/cgroup names it: "/a/b", "" for the
/// hierarchy's root, for a group outside what this process can see, and where there is none.
std::string own_cgroup(const std::string& proc_self_cgroup, std::string_view v1_controller);

class RunnerLimits {
 public:
  struct Options {
    uint64_t memory_bytes = 0;  ///< of one runner; 0: no limit
    double cpus = 0;            ///< CPU seconds a second, of one runner; 0: no limit
    std::string run;            ///< the run's name
    uint32_t agent = 0;         ///< the host agent's number in the run
    std::string cgroup_root = "/sys/fs/cgroup";
    std::string proc_self_cgroup = "/proc/self/cgroup";
  };
  /// Finds what this host offers: v2, v1 or neither, for memory and for the CPU. Makes no group yet.
  explicit RunnerLimits(Options options);
  /// Removes the groups it made and that are empty. Does nothing in a forked copy.
  ~RunnerLimits();
  RunnerLimits(const RunnerLimits&) = delete;
  RunnerLimits& operator=(const RunnerLimits&) = delete;

  /// What is in force, one line for the log: "runner limits: cgroup v1: memory 64 MiB, 0.5 cores". Empty without
  /// limits.
  std::string describe() const;

  /// Puts the process, just forked, into its slot's group. Returns "" or what went wrong. What the process touched
  /// before is charged to its parent's group: let it wait until it has been admitted.
  [[nodiscard]] std::string admit(int pid, uint32_t slot);

  /// In the forked child, first thing: the rlimits. Returns "" or what went wrong. RLIMIT_DATA counts private writable
  /// mappings whether touched or not, thread stacks and what the zygote had mapped among them.
  [[nodiscard]] std::string apply_in_child() const;

  /// Removes what a killed agent of `run` left behind: its empty groups. Returns how many are not empty yet.
  static size_t sweep(const std::string& cgroup_root, const std::string& run,
                      const std::string& proc_self_cgroup = "/proc/self/cgroup");

 private:
  enum class Version { none, v1, v2 };
  struct Controller {
    Version version = Version::none;
    std::string parent;  // the directory that gets the slots' groups
  };
  void find_v2(const std::string& root);
  Controller find_v1(const std::string& controller) const;
  bool can_make_groups_in(const std::string& parent) const;
  std::string group(const Controller& controller, uint32_t slot) const;
  void put_into_group(int pid, uint32_t slot);
  void write_memory_limit(const std::string& group) const;
  void write_cpu_limit(const std::string& group) const;

  Options options_;
  Controller memory_, cpu_;
  std::vector<std::string> made_;
  pid_t maker_ = 0;  // the process that made them
};

}  // namespace myriad
