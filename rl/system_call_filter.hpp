// SystemCallFilter: the classic BPF program of a sandbox. What it refuses fails with EPERM, and the process lives on.
//
// Refused: looking into other processes, mounting, namespaces, kernel modules and keys, clocks and host names, and the
// kernel's widest doors (bpf, io_uring, perf, userfaultfd). A process of another architecture can call nothing.
#pragma once

#include <linux/filter.h>

#include <vector>

namespace myriad {

struct SystemCallFilter {
  bool network = false;     ///< unix and IP sockets; without it none but pairs of streams
  bool attributes = false;  ///< chmod, chown, times and extended attributes, which Landlock does not handle
  bool truncation = false;  ///< truncate() and opens that truncate without writing, which Landlock handles from ABI 3

  std::vector<sock_filter> program() const;
};

}  // namespace myriad
