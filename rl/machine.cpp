#include "rl/machine.hpp"

#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <system_error>
#include <vector>

namespace myriad {
namespace {

constexpr int kRenames = 4;  // again, after 10, 20, 40 and 80 ms
constexpr useconds_t kRenamePauseUs = 10'000;

/// The smallest quota, in cores, of the group `path` below `mount` and of those above it; 0: none.
double quota_of(const std::string& mount, std::string path) {
  double least = 0;
  for (;;) {
    const std::string group = mount + path;
    double quota = 0, period = 0;
    std::string first;
    if (std::ifstream v2(group + "/cpu.max"); v2 >> first >> period) {
      quota = first == "max" ? 0 : std::strtod(first.c_str(), nullptr);
    } else {
      std::ifstream(group + "/cpu.cfs_quota_us") >> quota;
      std::ifstream(group + "/cpu.cfs_period_us") >> period;
    }
    if (quota > 0 && period > 0) least = least == 0 ? quota / period : std::min(least, quota / period);
    if (path.empty() || path == "/") return least;
    path.resize(path.rfind('/'));
  }
}

}  // namespace

int cores_within_quota(int cores, const std::string& cgroup_root, const std::string& proc_self_cgroup) {
  double least = 0;
  const auto look = [&](const std::string& mount, const std::string& path) {
    const double quota = quota_of(mount, path);
    if (quota > 0) least = least == 0 ? quota : std::min(least, quota);
  };
  std::ifstream groups(proc_self_cgroup);  // "4:cpu,cpuacct:/a/b" of v1, "0::/a/b" of v2
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    std::string path = line.substr(second + 1);
    if (path.find("/..") != std::string::npos) path.clear();  // outside of what is seen here
    if (controllers == ",,")
      look(cgroup_root, path), look(cgroup_root + "/unified", path);
    else if (controllers.find(",cpu,") != std::string::npos)
      look(cgroup_root + "/cpu", path);
  }
  return least == 0 ? cores : std::clamp(static_cast<int>(std::ceil(least)), 1, cores);
}

int usable_cores() {
  static const int cores = [] {
    // The kernel itself: the C library's answers are bounded by cpu_set_t, or are of the whole machine.
    std::vector<unsigned long> mask(1024);
    const long bytes = ::syscall(SYS_sched_getaffinity, 0, mask.size() * sizeof mask[0], mask.data());
    int allowed = 0;
    for (long i = 0; i < bytes / static_cast<long>(sizeof mask[0]); ++i)
      allowed += std::popcount(mask[static_cast<size_t>(i)]);
    return cores_within_quota(std::max(1, allowed), "/sys/fs/cgroup", "/proc/self/cgroup");
  }();
  return cores;
}

int sync_to_disk(int fd) {
  if (::fsync(fd) == 0) return 0;
  // Some file systems cannot, of a folder or at all: what they keep is as safe as it gets.
  const int error = errno;
  return error == EINVAL || error == ENOTSUP || error == ENOSYS ? 0 : error;
}

int rename_file(const std::string& from, const std::string& to) {
  for (int tries = 0;; ++tries) {
    if (::rename(from.c_str(), to.c_str()) == 0) return 0;
    const int error = errno;
    struct stat status {};
    // Over a network the answer to one that was done may be lost, and the next try finds nothing.
    if (error == ENOENT && tries > 0 && ::stat(to.c_str(), &status) == 0) return 0;
    if (tries == kRenames || error == ENOENT || error == ENOSPC || error == EROFS || error == EXDEV) return error;
    ::usleep(kRenamePauseUs << tries);
  }
}

Error as_error(const std::exception& error) {
  if (const auto* own = dynamic_cast<const Error*>(&error)) return *own;
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    const std::string second = file->path2().empty() ? "" : fmt::format(" and {}", file->path2().string());
    const std::string paths = file->path1().empty() ? "a file" : file->path1().string() + second;
    return {Exit::resource, "file-system", fmt::format("{}: {}", paths, file->code().message())};
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr)
    return {Exit::resource, "out-of-memory", "this machine gives the process no more memory"};
  if (dynamic_cast<const std::system_error*>(&error) != nullptr) return {Exit::resource, "system", error.what()};
  return {Exit::internal, "internal", error.what()};
}

}  // namespace myriad
