// EnvRunner: the process that samples. Welcome -> hello -> [permit -> fragment]*, until its agent is gone.
//
// Forked by the zygote with everything loaded; one thread, one stream socket to the agent, the host's weights mapped
// read-only, a page of its own for pin and progress. No libtorch, no ZeroMQ, no allocation per step.
#pragma once

#include <memory>

#include "env_runners/shared_weights.hpp"
#include "rl/config.hpp"
#include "rl/fragment.hpp"
#include "rl/sandbox.hpp"

namespace myriad {

/// What all runners of a host share; the zygote loads it once.
struct RunnerSetup {
  uint64_t run, epoch;
  Config config;
  std::string config_toml;  ///< all of it
  EnvSpec env;
  ModuleSpec spec;
  std::shared_ptr<const FragmentLayout> layout;
  SharedWeightsLayout weights_layout;

  /// Throws Error for an unknown environment, algorithm or module.
  static RunnerSetup load(uint64_t run, uint64_t epoch, std::string_view config_toml);
};

/// Enters `sandbox`, then makes environments and runs until the agent closes `socket`. `door`: socket to the agent's
/// ClientDoor, or -1. Returns the exit status, after sending the agent the error.
int run_env_runner(const RunnerSetup& setup, uint32_t slot, uint32_t incarnation, int socket, int door,
                   const std::byte* weights, RunnerPage& page, const Sandbox& sandbox);

}  // namespace myriad
