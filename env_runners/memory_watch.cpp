#include "env_runners/memory_watch.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "env_runners/runner_limits.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

/// The number in a file of one; nothing when it is missing or "max".
std::optional<uint64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

/// The number behind `key` in lines such as "MemTotal:  123 kB" or "inactive_file 123".
std::optional<uint64_t> number_after(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key + " ")) continue;
    const size_t at = line.find_first_not_of(' ', key.size());
    if (at != std::string::npos && line[at] >= '0' && line[at] <= '9') return std::stoull(line.substr(at));
  }
  return std::nullopt;
}

struct Names {
  const char *limit, *used, *cache;
};
constexpr Names kV1 = {"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"};
constexpr Names kV2 = {"/memory.max", "/memory.current", "inactive_file"};

double share_left(const HostMemory& memory) {
  return memory.total == 0 ? 1 : static_cast<double>(memory.available) / static_cast<double>(memory.total);
}

/// Narrows `memory` by the group `path` below `mount` and by those above it; `host_total` is what the machine has.
void narrow(HostMemory& memory, uint64_t host_total, const std::string& mount, std::string path, const Names& names) {
  if (!std::filesystem::exists(mount + path)) path.clear();  // the mount shows another part of the tree
  for (;;) {
    const std::string group = mount + path;
    const std::optional<uint64_t> limit = number_in(group + names.limit), used = number_in(group + names.used);
    // A limit above what the host has (v1's "none" is nearly 2^63) limits nothing.
    if (limit && used && *limit > 0 && (host_total == 0 || *limit < host_total)) {
      const uint64_t cache = number_after(group + "/memory.stat", names.cache).value_or(0);
      const uint64_t held = *used - std::min(cache, *used);
      const HostMemory here{*limit - std::min(held, *limit), *limit};
      if (memory.total == 0 || share_left(here) < share_left(memory)) memory = here;
    }
    if (path.empty()) return;
    path.resize(path.rfind('/'));
  }
}

}  // namespace

MemoryWatch::MemoryWatch(Options options) : options_(options) {
  check(options_.reserve_share >= 0 && options_.reserve_share <= options_.release_share && options_.release_share <= 1,
        "memory watch: reserve {} and release {}, want 0 <= reserve <= release <= 1", options_.reserve_share,
        options_.release_share);
}

std::optional<uint32_t> MemoryWatch::step(Time now, uint64_t available_bytes, uint64_t total_bytes,
                                          const std::function<uint64_t(uint32_t slot)>& rss_of,
                                          std::span<const uint32_t> running) {
  if (stopping_ && std::find(running.begin(), running.end(), *stopping_) == running.end()) stopping_.reset();
  const double share = share_left({available_bytes, total_bytes});
  short_ = share < (short_ ? options_.release_share : options_.reserve_share);
  if (!short_ || stopping_) return std::nullopt;
  if (named_at_ && now - *named_at_ < options_.interval) return std::nullopt;
  uint64_t largest = 0;  // one that holds nothing would free nothing
  for (uint32_t slot : running) {
    const uint64_t rss = rss_of(slot);
    if (rss <= largest) continue;
    largest = rss;
    stopping_ = slot;
  }
  if (stopping_) named_at_ = now;
  return stopping_;
}

void MemoryWatch::gone(uint32_t slot) {
  if (stopping_ == slot) stopping_.reset();
}

HostMemory read_host_memory(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo", self = root + "/proc/self/cgroup",
                    cgroups = root + "/sys/fs/cgroup";
  HostMemory memory{number_after(meminfo, "MemAvailable:").value_or(0) << 10,
                    number_after(meminfo, "MemTotal:").value_or(0) << 10};
  const uint64_t host_total = memory.total;
  narrow(memory, host_total, cgroups + "/memory", own_cgroup(self, "memory"), kV1);
  for (const char* mount : {"", "/unified"}) narrow(memory, host_total, cgroups + mount, own_cgroup(self, ""), kV2);
  return memory;
}

uint64_t resident_bytes(int pid) {
  std::ifstream file(fmt::format("/proc/{}/statm", pid));
  uint64_t size = 0, resident = 0;
  if (!(file >> size >> resident)) return 0;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

void prefer_for_oom(int score) { std::ofstream("/proc/self/oom_score_adj") << score; }

}  // namespace myriad
