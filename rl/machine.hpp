// What the machine is and what it refuses: cores that may be used, file systems with their gaps, and exceptions of the
// standard library in words of ours.
#pragma once

#include <exception>
#include <string>

#include "rl/check.hpp"

namespace myriad {

/// Cores that this process may use: of its affinity and of the CPU quota of its control groups, at least 1.
int usable_cores();
/// `cores`, or as many as the quota of these control groups leaves of them.
int cores_within_quota(int cores, const std::string& cgroup_root, const std::string& proc_self_cgroup);

/// fsync(): 0, or errno. A file system that has none is no error.
int sync_to_disk(int fd);

/// rename(): 0, or errno. What fails is tried again for a moment: file systems of networks are busy, or lose an answer.
int rename_file(const std::string& from, const std::string& to);

/// Any exception as an Error: itself, or what the machine refused (a file, memory, a thread) as Exit::resource; the
/// rest is Error("internal").
Error as_error(const std::exception& error);

}  // namespace myriad
