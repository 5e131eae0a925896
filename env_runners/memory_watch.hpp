// MemoryWatch: stops the largest runner before the kernel stops a learner. One for each host agent, one thread.
//
// When the host is short of memory, one runner at a time is named, until enough is available again. A runner costs a
// restart and some fragments; a learner costs the run. The decision is pure: time and sizes come in.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "rl/system.hpp"

namespace myriad {

class MemoryWatch {
 public:
  struct Options {
    double reserve_share = 0.05;  ///< of the total: below it runners are stopped,
    double release_share = 0.08;  ///< until this much is available again
    Time interval = std::chrono::milliseconds(250);
  };
  explicit MemoryWatch(Options options);

  /// The slot whose runner to stop now: the largest one. None while enough is available, within `interval` of the last
  /// one, and while the last one has not gone. `running`: the slots that have a process; `rss_of` is asked only when
  /// one is to be named. A total of 0 means unknown: none.
  std::optional<uint32_t> step(Time now, uint64_t available_bytes, uint64_t total_bytes,
                               const std::function<uint64_t(uint32_t slot)>& rss_of, std::span<const uint32_t> running);

  /// The slot's process has ended. Needed beside `running`: its next one may be there before the next step.
  void gone(uint32_t slot);

  bool short_of_memory() const { return short_; }

 private:
  Options options_;
  bool short_ = false;
  std::optional<uint32_t> stopping_;  // named and not gone yet
  std::optional<Time> named_at_;
};

struct HostMemory {
  uint64_t available = 0, total = 0;  ///< bytes; a total of 0: unknown
};

/// What this process may still take: of the host (MemAvailable, MemTotal) and of each control group above it that has a
/// limit, the one with the smallest share left. Page cache that a group can drop counts as available. Files are looked
/// up below `root`.
HostMemory read_host_memory(const std::string& root = "/");

/// Memory the process holds, /proc/PID/statm; 0 when it is gone.
uint64_t resident_bytes(int pid);

/// Moves this process forward (0 to 1000) in the kernel's choice of what to kill; runners take 500. Best effort.
void prefer_for_oom(int score);

}  // namespace myriad
