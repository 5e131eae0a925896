// train: one run from its config to its last checkpoint. The shell around DriverCore: processes, sockets, signals,
// files.
#pragma once

#include <string>
#include <vector>

#include "rl/config.hpp"
#include "rl/environment.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

struct TrainOptions {
  std::string config;                  ///< a path, or a shipped config's name; "" with resume
  std::vector<std::string> overrides;  ///< "training.lr=1e-3"
  std::string out;                     ///< the run's directory; "" = the next one under runs/
  std::string resume;                  ///< a run's directory, or one checkpoint in it
  std::string from;                    ///< of which a new run takes parameters; its config, too, where there is none
  bool json = false;
  std::vector<std::string> command;  ///< as typed, for command.txt
};

/// Returns the exit status. Throws Error before anything was started.
int train(const TrainOptions& options);

/// The text of a config given by path or shipped name, and what to call it in messages. Throws Error("no-config").
struct ConfigFile {
  std::string name, text;
};
ConfigFile read_config(const std::string& path_or_name);

/// Fails as a run would for an environment or spaces that cannot be; returns the environment with its options applied.
EnvSpec check_environment(const Config& config);
/// The same of an environment that is known; returns the network.
ModuleSpec check_environment(const Config& config, const EnvSpec& env);

}  // namespace myriad
