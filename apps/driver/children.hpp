// Children: the processes a driver starts, and the promise that none of them, and no socket file, outlives it.
//
//   driver --fork--> janitor (leads the children's process group; waits for the pipe from the driver to close)
//   driver --fork, exec--> learner, host agents --fork--> runners   (one group: Ctrl-C reaches the driver alone)
//
// Children ask the kernel to kill them when the driver dies; the janitor then removes the socket directory, kills what
// is left of the group, and has the control groups of the runners removed. So kill -9 of the driver leaves nothing
// behind. Runners whose agent died become the driver's own children (subreaper), so that it can wait for the last of
// them, whoever else reaps in this container.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "rl/system.hpp"

namespace myriad {

class Children final : public Processes {
 public:
  /// Makes a 0700 directory for sockets and starts the janitor. Call before any thread exists.
  Children();
  ~Children() override;

  const std::string& socket_directory() const { return socket_directory_; }
  /// What children print goes to one file each in `directory`; empty ones are removed. Call before the first spawn.
  void log_to(std::string directory) { log_directory_ = std::move(directory); }
  /// Whose control groups the janitor is to remove. Call once, before the first spawn.
  void name_run(const std::string& run);

  int spawn(const std::string& program, const std::vector<std::string>& arguments) override;
  void kill(int pid, int signal) override;
  void kill_all();

  struct Ended {
    int pid;
    std::string cause;  ///< "SIGKILL", "exit status 3"; with the last lines it printed
    int exit_status;    ///< -1 when a signal ended it
  };
  /// A child that ended since the last call.
  std::optional<Ended> reap();
  bool any() const { return !running_.empty(); }

 private:
  struct Log {
    std::string path;
    uintmax_t begin;  // what is before it, an earlier process printed
  };
  static std::string last_lines(const Log& log);

  std::string log_directory_, socket_directory_;
  int janitor_ = -1, pipe_ = -1;
  std::map<int, Log> running_;  // by pid
};

}  // namespace myriad
