// LocalLauncher: learners and host agents as children of the driver, in the janitor's process group.
#pragma once

#include <map>

#include "apps/driver/launcher.hpp"
#include "apps/driver/log_files.hpp"

namespace myriad {

class LocalLauncher final : public Launcher {
 public:
  /// `programs`: the folder of myriad-learner and myriad-host-agent.
  LocalLauncher(Janitor& janitor, std::string programs);
  /// Kills all children and waits for them.
  ~LocalLauncher() override;

  /// A process prints into "learner.txt" or "host-agent-0003.txt"; files that stay empty are removed.
  void begin(const RunAddress& run, const std::string& log_directory) override;
  void start(const RunProcess& process) override;
  void kill(const RunProcess& process, int signal) override;
  void kill_all() override;
  std::optional<Ended> ended() override;

 private:
  struct Child {
    RunProcess process;
    LogFiles::Process log;
  };
  std::vector<std::string> arguments_of(const RunProcess& process) const;

  Janitor& janitor_;
  std::string programs_, log_directory_;
  RunAddress run_;
  std::map<int, Child> running_;  // by pid
  LogFiles logs_;
};

}  // namespace myriad
