// EnvContext: what a process lends the environments it makes. Those that live in this process use nothing of it; those
// whose simulators or clients are elsewhere (rl/simulator/, rl/plugin.cpp) do.
#pragma once

#include <functional>

#include "rl/sandbox.hpp"
#include "rl/system.hpp"

namespace myriad {

namespace simulator {
struct PolicySource;
}

struct EnvContext {
  Sandbox::Options sandbox = {};  ///< of the processes an environment starts; off in a process that is inside already
  Time answer_timeout = std::chrono::seconds(30);  ///< for a simulator's answer to a Reset or Step
  Time start_timeout = std::chrono::seconds(60);   ///< for its Hello
  std::function<void()> alive = {};                ///< called every second while an environment waits for its simulator
  int door = -1;                                   ///< socket to the agent's ClientDoor; -1: clients cannot come here
  const simulator::PolicySource* policy = nullptr;  ///< for clients that act themselves; outlives the environments

  /// That of the driver, a learner or an agent of this run: what they start for an environment is in its sandbox.
  static EnvContext of(const Config& config) { return {.sandbox = sandbox_options(config)}; }
};

}  // namespace myriad
