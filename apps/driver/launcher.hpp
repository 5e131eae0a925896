// Launcher: starts the processes of a run, kills them, and reports those that ended. hosts.launcher names it.
//
//   DriverCore --SpawnLearner, SpawnAgent--------> start()      --where that fails--> SpawnFailed
//              --KillLearner, KillAgent, KillAll-> kill(), kill_all()
//   DriverCore <--LearnerExited, AgentExited------ ended()
//
// What a process does once it runs, it tells the driver itself, over its socket. Used from the driver's one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "roles/driver_core.hpp"

namespace myriad {

class Janitor;

/// What a process needs to find its run.
struct RunAddress {
  uint64_t run = 0;     ///< changes with each life of a run
  std::string control;  ///< the driver's endpoint
  std::string keys;     ///< directory with the driver's keys; "": none
};

/// One start of a learner or host agent.
struct RunProcess {
  enum class Role : uint8_t { learner, agent } role;
  uint32_t index;        ///< shard of a learner, place of a host agent
  uint32_t incarnation;  ///< one higher with each start of that index
  bool operator==(const RunProcess&) const = default;
};

class Launcher {
 public:
  struct Ended {
    RunProcess process;
    std::string cause;     ///< "SIGKILL", "exit status 3"; with the last lines it printed
    bool drained = false;  ///< a host agent that was told to leave (preemption), and has: exit status 75
  };

  virtual ~Launcher() = default;

  /// Processes started from now on belong to this run. What they print goes to files in `log_directory`.
  virtual void begin(const RunAddress& run, const std::string& log_directory) = 0;

  /// Begins to start a process, without waiting for it. Throws Error where it cannot: nothing was started then.
  virtual void start(const RunProcess& process) = 0;

  /// Sends a signal, or what stands for it. Without effect on a process that was not started or has ended.
  virtual void kill(const RunProcess& process, int signal) = 0;

  /// SIGKILL to all that were started.
  virtual void kill_all() = 0;

  /// A started process that has ended, each once. The driver asks until there is none, each time that a signal
  /// (SIGCHLD among them), a message or a timer wakes it.
  virtual std::optional<Ended> ended() = 0;
};

struct LauncherInfo {
  std::string name;    ///< in hosts.launcher
  bool starts_agents;  ///< false: start() is called for learners alone, agents come by `myriad agent`
  std::unique_ptr<Launcher> (*make)(Janitor& janitor);
};

/// Those that hosts.launcher can name.
const std::vector<LauncherInfo>& launchers();

/// Throws Error(usage, "unknown-launcher") with the known names.
const LauncherInfo& find_launcher(std::string_view name);

/// Carries out what `output` asks of the launcher, if anything. Returns the input for DriverCore where a start failed.
std::optional<DriverCore::Input> carry_out(const DriverCore::Output& output, Launcher& launcher);

/// What DriverCore is told of the end.
DriverCore::Input input_of(const Launcher::Ended& ended);

}  // namespace myriad
