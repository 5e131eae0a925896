#include "env_runners/runner_limits.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "rl/check.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kCpuPeriodUs = 100'000;
constexpr uint64_t kMinCpuQuotaUs = 1'000;  // the kernel takes no less

struct WriteFailed {
  int error;
  std::string path;
};

/// A control file takes one value in one write(); it is never created.
void write_file(const std::string& path, const std::string& value) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (fd < 0) throw WriteFailed{errno, path};
  const ssize_t written = ::write(fd, value.data(), value.size());
  const int error = errno;
  ::close(fd);
  if (written != static_cast<ssize_t>(value.size())) throw WriteFailed{written < 0 ? error : EIO, path};
}

/// The file's first word; "" when it is missing or empty.
std::string first_word(const std::string& path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

bool has_word(const std::string& path, std::string_view wanted) {
  std::ifstream file(path);
  for (std::string word; file >> word;)
    if (word == wanted) return true;
  return false;
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

/// A group's name is one path component; what else a run may be called becomes '_'.
std::string group_prefix(const std::string& run) {
  std::string name = run;
  for (char& c : name)
    if (c == '/' || c == '\n') c = '_';
  return "myriad." + name;
}

/// "myriad.<run>.<number>.<number>": so that run "a" does not take the groups of run "a.b".
bool is_group_of(std::string_view name, const std::string& prefix) {
  for (int field = 0; field < 2; ++field) {
    const size_t dot = name.rfind('.');
    if (dot == std::string_view::npos || dot + 1 == name.size()) return false;
    if (name.find_first_not_of("0123456789", dot + 1) != std::string_view::npos) return false;
    name = name.substr(0, dot);
  }
  return name == prefix;
}

/// Where cgroup v2 is mounted: at the root or, beside v1 hierarchies, in unified/.
std::string v2_mount(const std::string& root) {
  for (const std::string& mount : {root, root + "/unified"})
    if (exists(mount + "/cgroup.controllers")) return mount;
  return "";
}

bool enable(const std::string& parent, const std::string& controller) {
  const std::string control = parent + "/cgroup.subtree_control";
  if (has_word(control, controller)) return true;
  try {
    write_file(control, "+" + controller);
    return true;
  } catch (const WriteFailed&) {
    return false;  // EBUSY: the group holds processes; EACCES: it is not ours
  }
}

bool is_limited_v2(const std::string& group) {
  for (const char* limit : {"/memory.max", "/memory.high", "/cpu.max"}) {
    const std::string value = first_word(group + limit);
    if (!value.empty() && value != "max") return true;
  }
  return false;
}

std::string lower_rlimit(__rlimit_resource resource, rlim_t value, const char* name) {
  if (lower_limit(resource, value)) return "";
  return fmt::format("cannot set {} to {}: {}", name, value, std::strerror(errno));
}

}  // namespace

std::string own_cgroup(const std::string& proc_self_cgroup, std::string_view v1_controller) {
  std::ifstream file(proc_self_cgroup);
  for (std::string line; std::getline(file, line);) {  // "4:cpu,cpuacct:/a/b" or, v2, "0::/a/b"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::istringstream controllers(line.substr(first + 1, second - first - 1));
    bool matches = v1_controller.empty() && second == first + 1;
    for (std::string name; std::getline(controllers, name, ',');)
      if (!v1_controller.empty() && name == v1_controller) matches = true;
    if (!matches) continue;
    const std::string path = line.substr(second + 1);
    return path == "/" || !path.starts_with("/") || path.starts_with("/..") ? "" : path;
  }
  return "";
}

RunnerLimits::RunnerLimits(Options options) : options_(std::move(options)) {
  check(std::isfinite(options_.cpus) && options_.cpus >= 0, "runner limits: {} cores, want 0 or more", options_.cpus);
  if (const std::string v2 = v2_mount(options_.cgroup_root); !v2.empty()) find_v2(v2);
  if (options_.memory_bytes != 0 && memory_.version == Version::none) memory_ = find_v1("memory");
  if (options_.cpus != 0 && cpu_.version == Version::none) cpu_ = find_v1("cpu");
}

RunnerLimits::~RunnerLimits() {
  if (::getpid() != maker_) return;
  for (const std::string& group : made_) ::rmdir(group.c_str());
}

// From the own group upwards; a process is in one v2 group only, so both controllers get the same parent.
void RunnerLimits::find_v2(const std::string& root) {
  std::string path = own_cgroup(options_.proc_self_cgroup, "");
  if (!exists(root + path)) path.clear();  // the mount shows another part of the tree
  for (;;) {
    const std::string parent = root + path, controllers = parent + "/cgroup.controllers";
    const bool memory = options_.memory_bytes != 0 && has_word(controllers, "memory");
    const bool cpu = options_.cpus != 0 && has_word(controllers, "cpu");
    if ((memory || cpu) && can_make_groups_in(parent)) {
      if (memory && enable(parent, "memory")) memory_ = {Version::v2, parent};
      if (cpu && enable(parent, "cpu")) cpu_ = {Version::v2, parent};
      if (memory_.version == Version::v2 || cpu_.version == Version::v2) return;
    }
    if (path.empty() || is_limited_v2(parent)) return;
    path.resize(path.rfind('/'));
  }
}

RunnerLimits::Controller RunnerLimits::find_v1(const std::string& controller) const {
  const std::string mount = options_.cgroup_root + "/" + controller;
  const std::string own = mount + own_cgroup(options_.proc_self_cgroup, controller);
  const std::string& parent = exists(own) ? own : mount;
  const char* limit = controller == "memory" ? "/memory.limit_in_bytes" : "/cpu.cfs_quota_us";
  if (!exists(mount + limit) && !exists(parent + limit)) return {};  // the root has no cpu quota on some kernels
  return can_make_groups_in(parent) ? Controller{Version::v1, parent} : Controller{};
}

// Permission bits mean little here (read-only mounts, root without capabilities): make one and remove it.
bool RunnerLimits::can_make_groups_in(const std::string& parent) const {
  const std::string probe = group({Version::none, parent}, UINT32_MAX);
  return ::mkdir(probe.c_str(), 0755) == 0 && ::rmdir(probe.c_str()) == 0;
}

std::string RunnerLimits::group(const Controller& controller, uint32_t slot) const {
  return fmt::format("{}/{}.{}.{}", controller.parent, group_prefix(options_.run), options_.agent, slot);
}

std::string RunnerLimits::describe() const {
  const uint64_t bytes = options_.memory_bytes;
  const std::string memory =
      bytes % (1 << 20) == 0 ? fmt::format("memory {} MiB", bytes >> 20) : fmt::format("memory {} bytes", bytes);
  const std::string cores = fmt::format("{} cores", options_.cpus);
  const auto name = [](Version version) { return version == Version::v2 ? "cgroup v2" : "cgroup v1"; };
  std::string text;
  if (bytes != 0 && memory_.version != Version::none) text = fmt::format("{}: {}", name(memory_.version), memory);
  if (bytes != 0 && memory_.version == Version::none)
    text = fmt::format("rlimit: {}, counted as mapped and not as used", memory);
  if (options_.cpus != 0) {
    if (cpu_.version == Version::none)
      text += fmt::format("{}the CPU share cannot be limited here", text.empty() ? "" : "; ");
    else if (bytes != 0 && cpu_.version == memory_.version)
      text += ", " + cores;
    else
      text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", name(cpu_.version), cores);
  }
  return text.empty() ? "" : "runner limits: " + text;
}

std::string RunnerLimits::admit(int pid, uint32_t slot) {
  maker_ = ::getpid();
  for (int attempt = 1;; ++attempt) {
    try {
      put_into_group(pid, slot);
      return "";
    } catch (const WriteFailed& failed) {
      // The sweep of another agent that ends may have come between a group's making and its first process.
      if (failed.error == ENOENT && attempt < 3) continue;
      return fmt::format("runner limits of slot {}: {}: {}", slot, failed.path, std::strerror(failed.error));
    }
  }
}

void RunnerLimits::put_into_group(int pid, uint32_t slot) {
  std::vector<std::string> groups;
  const auto make = [&](const Controller& controller) {
    const std::string path = group(controller, slot);
    // Every time: a sweep may have removed it since.
    if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) throw WriteFailed{errno, path};
    if (std::find(made_.begin(), made_.end(), path) == made_.end()) made_.push_back(path);
    if (std::find(groups.begin(), groups.end(), path) == groups.end()) groups.push_back(path);
    return path;
  };
  if (memory_.version != Version::none) write_memory_limit(make(memory_));
  if (cpu_.version != Version::none) write_cpu_limit(make(cpu_));
  for (const std::string& path : groups) write_file(path + "/cgroup.procs", std::to_string(pid));
}

void RunnerLimits::write_memory_limit(const std::string& group) const {
  const std::string bytes = std::to_string(options_.memory_bytes);
  // Swap, where it is counted, would only put the end off while the whole host slows down.
  if (memory_.version == Version::v2) {
    write_file(group + "/memory.max", bytes);
    if (exists(group + "/memory.swap.max")) write_file(group + "/memory.swap.max", "0");
  } else {
    write_file(group + "/memory.limit_in_bytes", bytes);
    if (exists(group + "/memory.memsw.limit_in_bytes")) write_file(group + "/memory.memsw.limit_in_bytes", bytes);
  }
}

void RunnerLimits::write_cpu_limit(const std::string& group) const {
  const auto wanted = static_cast<uint64_t>(std::llround(options_.cpus * static_cast<double>(kCpuPeriodUs)));
  const uint64_t quota_us = std::max(wanted, kMinCpuQuotaUs);
  if (cpu_.version == Version::v2) {
    write_file(group + "/cpu.max", fmt::format("{} {}", quota_us, kCpuPeriodUs));
  } else {
    write_file(group + "/cpu.cfs_period_us", std::to_string(kCpuPeriodUs));
    write_file(group + "/cpu.cfs_quota_us", std::to_string(quota_us));
  }
}

std::string RunnerLimits::apply_in_child() const {
  if (options_.memory_bytes == 0 && options_.cpus == 0) return "";
  // Thousands of runners that dump core fill a disk.
  std::string error = lower_rlimit(RLIMIT_CORE, 0, "RLIMIT_CORE");
  if (options_.memory_bytes != 0 && memory_.version == Version::none && error.empty())
    error = lower_rlimit(RLIMIT_DATA, options_.memory_bytes, "RLIMIT_DATA");
  return error;
}

size_t RunnerLimits::sweep(const std::string& cgroup_root, const std::string& run,
                           const std::string& proc_self_cgroup) {
  const std::string prefix = group_prefix(run);
  size_t in_use = 0;
  const auto sweep_up = [&](const std::string& mount, std::string path) {
    for (;;) {
      std::error_code ignored;
      std::vector<std::string> leftovers;
      for (fs::directory_iterator entry(mount + path, ignored), end; !ignored && entry != end; entry.increment(ignored))
        if (is_group_of(entry->path().filename().string(), prefix)) leftovers.push_back(entry->path().string());
      for (const std::string& group : leftovers) in_use += ::rmdir(group.c_str()) != 0 && errno == EBUSY;
      if (path.empty()) return;
      path.resize(path.rfind('/'));
    }
  };
  const std::string v2 = v2_mount(cgroup_root);
  if (!v2.empty()) sweep_up(v2, own_cgroup(proc_self_cgroup, ""));
  for (const char* controller : {"memory", "cpu"})
    sweep_up(fmt::format("{}/{}", cgroup_root, controller), own_cgroup(proc_self_cgroup, controller));
  return in_use;
}

}  // namespace myriad
