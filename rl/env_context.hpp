// EnvContext: what a process lends the environments it makes. Those that live in this process use nothing of it; those
// whose simulators or clients are elsewhere (rl/simulator/, rl/plugin.cpp) do.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "rl/sandbox.hpp"
#include "rl/system.hpp"

namespace myriad {

namespace simulator {
struct PolicySource;
}

struct EnvContext {
  Sandbox::Options sandbox = {};  ///< of the processes an environment starts; off in a process that is inside already
  Time answer_timeout = std::chrono::seconds(30);  ///< for a simulator's answer to a Reset or Step
  Time start_timeout = std::chrono::seconds(120);  ///< for its Hello, for each environment it makes, its first Resets
  std::function<void()> alive = {};              ///< called every second while an environment waits for its simulator,
                                                 ///< and where one of several is made or reset; may throw
  std::function<void(bool begins)> starts = {};  ///< called by EnvStart; must not throw
  std::function<void(size_t made, size_t of)> made = {};  ///< called as a simulator makes its environments
  uint64_t first_env = 0;    ///< index in the run of environment 0 of those that are made here
  std::string facts = {};    ///< Config::plugins.environment
  uint32_t world_steps = 0;  ///< the time limit of worlds of several agents, which their simulators keep; 0: none
  int door = -1;             ///< socket to the agent's ClientDoor; -1: clients cannot come here
  const simulator::PolicySource* policy = nullptr;  ///< for clients that act themselves; outlives the environments

  /// That of the driver, a learner or an agent of this run: what they start for an environment is in its sandbox, and
  /// its index is beyond those of the runners' environments.
  static EnvContext of(const Config& config);
};

/// While it lives an environment starts: it is made, or begins its first episode.
class EnvStart {
 public:
  explicit EnvStart(const EnvContext& context) : starts_(context.starts) {
    if (starts_) starts_(true);
  }
  ~EnvStart() {
    if (starts_) starts_(false);
  }
  EnvStart(const EnvStart&) = delete;

 private:
  const std::function<void(bool begins)>& starts_;
};

}  // namespace myriad
