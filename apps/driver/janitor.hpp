// Janitor: the promise that no process of a run, and no socket file, outlives its driver, however that ends.
//
//   driver --fork--> janitor (leads the process group of the driver's children; waits for the pipe from the driver to
//                             close)
//   driver --fork, exec--> learner, host agents --fork--> runners   (one group: Ctrl-C reaches the driver alone)
//
// Children ask the kernel to kill them when the driver dies; the janitor then removes the socket directory, kills what
// is left of the group, has the control groups of the runners removed, and ends the record of the run. So kill -9 of
// the driver leaves nothing behind. Runners whose agent died become the driver's own children (subreaper): it waits for
// them when it ends.
#pragma once

#include <string>

namespace myriad {

class Janitor {
 public:
  /// Makes a 0700 directory for sockets and starts the janitor. Call before any thread exists. Throws
  /// Error(resource).
  Janitor();
  /// Has everything removed and killed, and waits for it.
  ~Janitor();
  Janitor(const Janitor&) = delete;
  Janitor& operator=(const Janitor&) = delete;

  const std::string& socket_directory() const { return socket_directory_; }
  /// The process group that a child of the driver joins (setpgid) to be killed with it.
  int process_group() const { return pid_; }
  /// The control groups of this run are removed, too. `run`: 16 hexadecimal digits. Call once for each life of a run,
  /// before its first process.
  void name_run(const std::string& run) { tell(run); }
  /// The folder of the run, absolute: if its run.json still says "running" when the driver is gone, it is "killed"
  /// then.
  void name_folder(const std::string& folder) { tell(folder); }

 private:
  void tell(const std::string& text);
  std::string socket_directory_;
  int pid_ = -1, pipe_ = -1;
};

}  // namespace myriad
